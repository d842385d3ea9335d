#!/usr/bin/env bash
# What is to be known of a GPU, in two parts of at most four and a half minutes each.
#
#     bash benchmarks/gpu.sh 1 runs/gpu       # tests marked gpu; speed; where an iteration's time goes; seeds as one batch
#     bash benchmarks/gpu.sh 2 runs/gpu       # trains starpilot for what is left, evaluates; 64 agents of a Pendulum cell
#
# Each step writes into a file of the folder as it goes, so that what was done is there whenever the machine is taken
# away; steps.txt says how each ended. Variables: PYTHON, the interpreter (python3); BUDGET, seconds of a part (265);
# SIZE=tiny, a rehearsal at tiny sizes on the processor, without limits. docs/performance.md says what the machine needs.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
part=${1:?1 or 2} out=${2:-runs/gpu} PYTHON=${PYTHON:-python3} BUDGET=${BUDGET:-265} SIZE=${SIZE:-whole}
mkdir -p "$out" || exit 1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

step() { # NAME LIMIT COMMAND...: run the command for at most LIMIT seconds, or for what is left
    local name=$1 limit=$(($2 * slower)) left=$((BUDGET * slower - SECONDS)) start=$SECONDS
    shift 2
    ((limit < left)) || limit=$left
    if ((limit < 5)); then
        echo "$name: no time left" | tee -a "$out/steps.txt"
        return
    fi
    echo "== $name, at most $limit s: $*"
    timeout --signal=TERM --kill-after=5 "$limit" "$@" 2>&1 | tee "$out/$name.txt"
    echo "$name: status ${PIPESTATUS[0]} after $((SECONDS - start)) s (124, 137, 143: its time was over)" | tee -a "$out/steps.txt"
}

if [ "$SIZE" = tiny ]; then
    export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
    precision=fp32
    sizes="--envs 4 --steps 4 --rounds 1"
    profiled="--envs 4 --steps 4 --warm-up 1"
    seeds="--seeds 1 2 --frames 4 --seconds 0.1"
    run="num_envs=4 rollout_steps=8 num_threads=1 evaluate_every=1000 checkpoint_every=1 unseen=null"
    episodes="final_episodes=2"
    cell="total_frames=300 learning_starts=100 evaluate_episodes=1 final_episodes=1"
    training=60 slower=20
    run="$run total_frames=64"
else
    precision=bf16
    sizes="--envs 64 --steps 256 --rounds 20"
    profiled="--envs 64 --steps 256 --warm-up 6"
    seeds="--precision bf16 --frames 512 --seconds 1"
    run="evaluate_every=1000 checkpoint_every=10"
    episodes="final_episodes=200"
    cell="total_frames=20000"
    slower=1
    training=$((BUDGET - 100)) # the other steps of the second part take 100 s
fi

# The variables above hold several arguments each.
# shellcheck disable=SC2086
case $part in
1)
    step tests 75 "$PYTHON" -m pytest -v -p no:cacheprovider -W default -m "gpu and not slow" tests/runs/test_performance.py tests/envs/games
    speed="benchmarks/procgen_ppo.py --contenders shared late full daac --precision $precision $sizes --no-evaluation --record $out/speed.csv"
    step speed_auto 60 "$PYTHON" $speed --performance auto --seconds 35
    step speed_fastest 100 "$PYTHON" $speed --performance fastest --seconds 70
    step profile 60 "$PYTHON" benchmarks/profile_iteration.py --contender shared --precision $precision --performance fastest $profiled
    step seeds 30 "$PYTHON" benchmarks/seeds_on_device.py convolutions $seeds
    ;;
2)
    starpilot="env=starpilot separation=shared precision=$precision performance=fastest"
    step starpilot "$training" "$PYTHON" experiments/procgen.py $starpilot $run $episodes run_dir="$out/runs/starpilot"
    step evaluation 45 "$PYTHON" experiments/procgen.py evaluate="$out/runs/starpilot" $episodes
    cp "$out/runs/starpilot/metrics.csv" "$out/starpilot.csv"
    step pendulum 35 "$PYTHON" experiments/control.py env=pendulum algorithm=td3 actor=[4,4] critic=[16,16] seeds=64 $cell run_dir="$out/runs/pendulum"
    step agents 20 "$PYTHON" benchmarks/seeds_on_device.py agents --agents 1 64 --seconds 1
    ;;
*)
    echo "the first argument must be 1 or 2; got $part" >&2
    exit 2
    ;;
esac
cat "$out/steps.txt"
