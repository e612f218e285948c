#!/usr/bin/env bash
# One command that proves kvbench on a machine with a GPU and without a network: the cuda tests,
# sweeps, checks with numbers; everything is left in one folder. docs/gpu.md says how to read it.
#
#   bash scripts/gpu_proof.sh [OUT] [--wheels DIR] [--minutes N] [--rehearse]
#
#   OUT            folder for what is left; by default gpu-proof
#   --wheels DIR   wheels of the packages that the machine lacks
#   --minutes N    time for all of it, 9 by default
#   --seconds N    the same in seconds, for tests
#   --mib N        the most that the package of run folders may have, 16 by default
#   --rehearse     tiny sizes, and no failure where there is no GPU
#
# PYTHON names the interpreter, by default python3. Exit codes: 0 nothing failed, 1 a step failed,
# 2 wrong usage, 130 interrupted.
#
# Every step has a place on the clock by which it is ended: what it has measured stays, the next step
# begins. A step that fails or hangs costs no other.
set -u
# A process group for each step: Ctrl-C is for this script to pass on.
set -m

usage() {
  sed -n '5,14p' "$0" | cut -c3- >&2
  exit 2
}

out=gpu-proof wheels='' budget=540 mib=16 rehearse=0
given=0
while (($#)); do
  case $1 in
    --wheels) wheels=${2-}; shift ;;
    --minutes) budget=$((60 * ${2-0})); shift ;;
    --seconds) budget=${2-0}; shift ;;
    --mib) mib=${2-}; shift ;;
    --rehearse) rehearse=1 ;;
    -*) usage ;;
    *) ((given++)) && usage; out=$1 ;;
  esac
  shift || usage
done
((budget > 0)) || usage

python=${PYTHON:-python3}
# As a path that holds from the repository's root too.
[[ $python != */* || $python == /* ]] || python=$PWD/$python
[[ -z $wheels || $wheels == /* ]] || wheels=$PWD/$wheels
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
runs=$work/runs
mkdir -p "$runs" "$work/site"
log=$out/log.txt
: >"$log"
rm -f "$out"/{summary.txt,env.json,checks.json,cuda-tests.xml,compare.png,runs.tar.gz}

export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 COLUMNS=120
# What is probed belongs to this proof, and is packed with it.
export KVBENCH_STATE=$runs/state
export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}

names=() results=() took=() notes=()
child='' stop=0 cuda=0 grace=8 why='no CUDA device' packed=''

say() {
  printf '%s\n' "$*"
  printf '%s\n' "$*" >>"$log"
}

# A sweep ends at the first signal after the sample in flight, at the second one at once.
end() { # GROUP
  kill -INT -- "-$1" && sleep "$grace" && kill -TERM -- "-$1" && sleep "$grace" && kill -KILL -- "-$1"
}

on_signal() {
  stop=$((stop + 1))
  [[ -n $child ]] || return
  if ((stop > 1)); then
    kill -KILL -- "-$child"
  else
    grace=3
    end "$child" &
  fi 2>/dev/null
}
trap on_signal INT TERM HUP

# Run a command until $limit seconds have passed; its output goes to the log. Sets status and late.
limited() {
  local watch
  rm -f "$work/late"
  "$@" </dev/null >>"$log" 2>&1 &
  child=$!
  # shellcheck disable=SC2094  # The marker is read once the watch is over.
  { sleep "$limit" && : >"$work/late" && end "$child"; } >/dev/null 2>&1 &
  watch=$!
  wait "$child" 2>/dev/null
  status=$?
  # A signal ends the wait before the child has ended.
  while kill -0 "$child" 2>/dev/null; do
    wait "$child" 2>/dev/null
    status=$?
  done
  child=''
  kill -KILL -- "-$watch" 2>/dev/null
  wait "$watch" 2>/dev/null
  late=0
  [[ ! -e $work/late ]] || late=1
}

# The last line that a part of the helper prints.
helper() { "$python" scripts/gpu_proof.py "$@" 2>>"$log" | tail -n 1; }

record() { # NAME RESULT SECONDS NOTE
  names+=("$1") results+=("$2") took+=("$3") notes+=("$4")
  say "$(printf '%-14s %-8s %4s s  %s' "$1" "$2" "$3" "$4")"
  table >"$out/summary.txt"
}

table() {
  local i failed=()
  printf 'kvbench on a GPU: %s UTC, %s s of %s s\n\n' "$(date -u '+%Y-%m-%d %H:%M')" "$SECONDS" "$budget"
  printf '%-14s %-8s %6s  %s\n' step result time note
  for i in "${!names[@]}"; do
    printf '%-14s %-8s %4s s  %s\n' "${names[i]}" "${results[i]}" "${took[i]}" "${notes[i]}"
    [[ ${results[i]} != FAILED ]] || failed+=("${names[i]}")
  done
  ((!${#failed[@]})) || printf '\nfailed:%s\n' "$(printf ' %s,' "${failed[@]}" | sed 's/,$//')"
}

# Run a step that is ended at its mark. Marks are seconds of a proof of 540, and shrink with it.
step() { # NAME MARK FUNCTION ARGUMENT...
  local name=$1 mark=$2 since=$SECONDS lines
  shift 2
  limit=$((mark * budget / 540 - SECONDS))
  result=ok note='' status=0 late=0
  if ((stop)); then
    record "$name" 'not run' 0 interrupted
    return
  fi
  if ((limit < 1)); then
    record "$name" FAILED 0 'no time was left'
    return
  fi
  say "--- $name, at most $limit s"
  lines=$(wc -l <"$log")
  "$@"
  if [[ $result == FAILED ]]; then
    tail -n "+$((lines + 1))" "$log" | tail -n 20 | cut -c1-300
  fi
  record "$name" "$result" "$((SECONDS - since))" "$note"
}

# What the end of a command that is no sweep means.
judge() {
  if ((stop)); then
    result=stopped note="interrupted${note:+; $note}"
  elif ((late)); then
    result=FAILED note="ended after $limit s${note:+; $note}"
  elif ((status)); then
    result=FAILED note="exit code $status${note:+; $note}"
  fi
}

gpu_step() { # NAME MARK FUNCTION ARGUMENT...
  if ((cuda)); then
    step "$@"
  else
    record "$1" skipped 0 "$why"
  fi
}

# The steps

install() {
  limited "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
    --disable-pip-version-check --root-user-action=ignore --target "$work/site" "$wheels"/*.whl
  judge
}

look() { "$python" scripts/gpu_proof.py machine >"$work/machine"; }

machine() {
  limited look
  cat "$work/machine" >>"$log"
  note=$(tail -n 1 "$work/machine")
  # 3 is the helper's word for: all is there but a device.
  if ((status == 0 && !late && !stop)); then
    cuda=1
  elif ((status == 3 && rehearse && !stop)); then
    result=skipped
  else
    ((status == 3)) || why='the step machine failed'
    judge
  fi
}

cuda_tests() {
  # Only the files that have such tests: others may need packages that are not there.
  local files
  mapfile -t files < <(grep -rlE 'mark\.cuda' tests --include='test_*.py' | sort)
  # Nor any other plugin that happens to be there: warnings are errors here.
  PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 limited "$python" -m pytest -m cuda -p pytest_timeout \
    -p no:cacheprovider --durations=10 \
    --junitxml="$out/cuda-tests.xml" "${files[@]}"
  note=$(helper tests "$out/cuda-tests.xml")
  judge
}

environment() {
  limited "$python" -m kvbench env
  judge
}

env_json() { "$python" -m kvbench env --json >"$out/env.json"; }

probe() {
  local which=(--device cpu)
  ((!cuda)) || which=(--device cuda --device cpu)
  limited "$python" -m kvbench probe "${which[@]}"
  judge
  # With the rates, if there are any.
  ((stop)) || { limit=30 && limited env_json; }
}

# A sweep into $runs/NAME. Its cases are measured until they have had their part of SHARE, of which
# 15 s are for loading and verifying; 0: as the options say.
sweep() { # NAME CONFIG NOTE SHARE CASES OPTION...
  local name=$1 config=$2 said=$3 share=$(($4 * budget / 540)) cases=$5 how=()
  shift 5
  if ((share)); then
    ((share < limit)) || share=$limit
    how=(--repeats auto --min-repeats 3 --max-repeats 10)
    how+=(--max-case-seconds $(((share - 15) / cases > 1 ? (share - 15) / cases : 1)))
  fi
  limited "$python" -m kvbench sweep "configs/$config.yaml" --out "$runs" --name "$name" \
    "${how[@]}" "$@"
  local ended=$status was_late=$late
  # It was killed before its charts: they are made from what is on the disk.
  if [[ -e $runs/$name/samples.csv && ! -e $runs/$name/summary.csv ]] && ((!stop)); then
    limit=20
    limited "$python" -m kvbench report "$runs/$name"
  fi
  note=$(helper describe "$runs/$name")
  if ((was_late || stop)); then
    # What was measured until then stands.
    result=stopped note="stopped early: $note"
    [[ $note == *': '[1-9]* ]] || ((stop)) || result=FAILED
  elif ((ended)); then
    result=FAILED note="exit code $ended: $note"
  fi
  note+=${said:+; $said}
  pack
}

gpt2_cuda() {
  local said='the plan asks for 10 samples' length=()
  if ((limit < 45)); then
    said='shortened: 300 tokens of 1000' length=(-n 300)
  fi
  sweep gpt2-cuda gpt2-colab "$said" 70 2 --device cuda "${length[@]}"
}

llama() {
  local said='fewer repeats than the plan' length=()
  if ((limit < 60)); then
    said='shortened: up to 256 tokens of 1024' length=(-n '64,256')
  fi
  sweep llama-7b llama-7b "$said" 75 6 "${length[@]}"
}

checks() {
  local on=cpu timed=4
  if ((cuda)); then
    on=cuda timed=$((limit > 60 ? 30 : limit > 40 ? 14 : 6))
  fi
  limited "$python" scripts/gpu_proof.py checks "$runs" "$out/checks.json" "$on" "$timed"
  note=$(tail -n 1 "$log")
  judge
}

compared() {
  "$python" -m kvbench compare "$runs/gpt2-both" --by "$1" --chart "$out/compare.png" >"$runs/compare.txt"
}

compare() { # AXIS
  limited compared "$1"
  cat "$runs/compare.txt" >>"$log"
  note="gpt2-both --by $1"
  judge
}

# The articles' length on the CPU, only if it should fit in what is left.
gpt2_cpu() { # TOKENS
  local expected left=$((limit - 20))
  expected=$(helper expect "$runs/gpt2-both" cpu "$1")
  if [[ -z $expected ]]; then
    result=skipped note='not known how long it would take: gpt2-both has no pair on the cpu'
  elif ((expected > left)); then
    result=skipped note="$1 tokens would take about $expected s, $left s were left"
  else
    sweep gpt2-cpu gpt2-colab 'shortened: one sample of 10' 0 2 \
      --device cpu -n "$1" --repeats 1 --no-verify
  fi
}

pack() { packed=$(helper pack "$runs" "$out/runs.tar.gz" "$mib"); }

# Marks and shares, in seconds, thought out for an H100 or H200 with 16 cores before any was there:
# a forward of GPT-2 takes 6 to 10 ms (launches, not work), with the cache and without; one of the 7B
# model 20 to 25 ms. A Python that imports torch takes 5 to 10 s, and each sweep starts one.
#   cuda tests    100 to 140: a dozen processes of their own
#   probe         20 for each of two devices, and an env after it
#   gpt2-cuda     1000 tokens x 2 arms at 8 s: 16 for each repeat, 3 or 4 of them
#   gpt2-both     200 tokens: 3 for a repeat on the GPU; on 16 cores about 8
#   batch         6 sizes x 2 arms x 100 tokens at 1 s: 12 for each repeat
#   llama-7b      64, 256, 1024 tokens x 2 arms: 60 for each repeat; the longest have one
#   chinese-cuda  4 of 10 lengths, 1840 tokens x 2 arms: 30 for each repeat
#   chinese-cpu   3 of 10 lengths, up to 210 tokens: 12 for one repeat
#   checks        GPT-2 twice, 30 of timed work, 14 or 6 where less is left
if ((rehearse)); then
  # Threads that wait for each other on a busy machine would take a hundred times as long.
  export OMP_NUM_THREADS=1
  [[ -z $wheels ]] || step wheels 20 install
  step machine 40 machine
  ((!cuda)) || why='rehearsed without the GPU'
  cuda=0
  gpu_step 'cuda tests'
  step env 80 environment
  step probe 200 probe
  gpu_step gpt2-cuda
  step gpt2-both 290 sweep gpt2-both gpt2-colab 'rehearsed: 4 and 8 tokens' 0 4 \
    --device cpu -n 4,8 --repeats 1 --no-verify
  gpu_step batch
  gpu_step llama-7b
  gpu_step chinese-cuda
  step chinese-cpu 350 sweep chinese-cpu gpt2-chinese 'rehearsed: 3 tokens' 0 2 \
    --device cpu -n 3 --repeats 1 --no-verify
  step checks 440 checks
  step compare 460 compare cache
  step gpt2-cpu 530 gpt2_cpu 12
else
  both=cpu by=cache
  [[ -z $wheels ]] || step wheels 15 install
  step machine 30 machine
  ((!cuda)) || both=cuda,cpu by=device
  gpu_step 'cuda tests' 200 cuda_tests
  step env 212 environment
  step probe 258 probe
  gpu_step gpt2-cuda 318 gpt2_cuda
  step gpt2-both 350 sweep gpt2-both gpt2-colab 'shortened: 200 tokens of 1000' 40 4 \
    --device "$both" -n 200
  gpu_step batch 392 sweep batch batch 'fewer repeats than the plan' 50 12 --device cuda
  gpu_step llama-7b 456 llama
  gpu_step chinese-cuda 476 sweep chinese-cuda gpt2-chinese 'shortened: 4 of 10 lengths' 35 8 \
    --device cuda --no-verify -n 10-910+300
  step chinese-cpu 488 sweep chinese-cpu gpt2-chinese 'shortened: 3 of 10 lengths' 25 6 \
    --device cpu --no-verify -n 10-210+100
  step checks 530 checks
  step compare 536 compare "$by"
  step gpt2-cpu 537 gpt2_cpu 1000
fi

pack
[[ $packed == [0-9]* ]] && result=ok || result=FAILED
record package "$result" 0 "$packed"
# Alone on the screen, last; in the log too.
printf '\n' | tee -a "$log"
tee -a "$log" <"$out/summary.txt"
((!stop)) || exit 130
[[ " ${results[*]} " != *' FAILED '* ]]
