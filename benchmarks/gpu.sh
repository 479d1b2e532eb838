#!/usr/bin/env bash
# The generator of jobs/configs/demo on one GPU, and what it is compared with, trainings beside each other where none
# needs another: benchmarks/gpu.sh [RUNS [SHARE]]. Every step goes on where it stopped: start it again.
#   RUNS   where everything goes (runs/garments); RUNS/logs has a log of each job, RUNS/few-labels/proof.md the table
#   SHARE  of all lengths; 0.02 tries in some minutes whether everything runs
# Environment: GPUS (0.05) of each process, 0 without one; READERS (2) processes that read; IMAGE_EXAMPLES (76800),
# JOINT_EXAMPLES (640000); SAMPLE_BATCH (256); LOG_EVERY (5) seconds; SEEDS (3) and AT_ONCE (10) of the segmenters, which
# PROOF=0 leaves out; RAY_ADDRESS of a Ray that is up already, which saves seconds for each job; ALONE=1 for a machine
# that has neither Ray nor MLflow (benchmarks/alone.py); LABELLED (512) pictures that have masks, for the curve of labels.
set -uo pipefail
runs=${1:-runs/garments} share=${2:-1} python=${PYTHON:-python3}
demo=jobs/configs/demo labelled=${LABELLED:-512}
mkdir -p "$runs/logs"
export PYTHONUNBUFFERED=1

whole() { "$python" -c "import sys; print(max(int(sys.argv[2]), round(float(sys.argv[1]) * $share)))" "$@"; }

declare -A began
job() { # job NAME MODULE ARGUMENTS...: a job beside the others, unless it is done
    local name=$1 module=$2
    shift 2
    [[ -e $runs/logs/$name.done ]] && return
    local call="-m jobs.$module"
    [[ ${ALONE:-} ]] && call="-m benchmarks.alone $module"
    "$python" $call "$@" --runs "$runs" >"$runs/logs/$name.log" 2>&1 &
    began[$name]=$!
}

together() { # together [NAME...]: waits for these jobs, or all that began, and ends where one failed
    local name names=("$@") failed=0
    ((${#names[@]})) || names=("${!began[@]}")
    for name in "${names[@]}"; do
        [[ ${began[$name]:-} ]] || continue
        if wait "${began[$name]}"; then
            touch "$runs/logs/$name.done"
            echo "$SECONDS s: $name is done"
        else
            echo "$SECONDS s: $name failed; $runs/logs/$name.log ends:" && tail -n 25 "$runs/logs/$name.log"
            failed=1
        fi
        unset "began[$name]"
    done
    ((failed)) && exit 1
    return 0
}

beside="--workers.gpus ${GPUS:-0.05} --workers.threads 1"
pairs=$(whole 12288 1024)

job pictures ingest --run pictures --dataset builtin2 --split train --pairs $pairs --workers.num "${READERS:-2}" --labelled none
job train ingest --run train --dataset builtin2 --split train --pairs $pairs --workers.num "${READERS:-2}"
job validation ingest --run validation --dataset builtin2 --split validation --pairs "$(whole 1024 128)"
job test ingest --run test --dataset builtin2 --split test --pairs "$(whole 1024 128)"
together

job image-vae train_vae $demo/image_vae.yaml --train "$runs/pictures" --validation "$runs/validation" $beside \
    --optimisation.num_examples "$(whole "${IMAGE_EXAMPLES:-76800}" 960)" --log_every_s "${LOG_EVERY:-5}"
job text train_clip $demo/clip.yaml --train "$runs/pictures" --validation "$runs/validation" $beside \
    --optimisation.num_examples "$(whole 64000 1280)"
job labels label $demo/label.yaml --pairs "$runs/pictures" --labelled "$runs/train" --validation "$runs/validation" $beside \
    --slice "$labelled:" --slices "0:$labelled" --steps "$(whole 3072 60)" --at_once 4 --seeds 2 --even_if_worse True
together labels

job annotation-vae train_vae $demo/annotation_vae.yaml --train "$runs/train" "$runs/labels" \
    --slices "0:$labelled" : --validation "$runs/validation" $beside --optimisation.num_examples "$(whole 56000 960)"
together image-vae
job image-decoder train_vae $demo/image_decoder.yaml --decoder_of "$runs/image-vae/weights" --train "$runs/pictures" \
    --validation "$runs/validation" $beside --optimisation.num_examples "$(whole "${DECODER_EXAMPLES:-25600}" 960)"
together

encoders="--encoders.text $runs/text/weights --encoders.image_vae $runs/image-decoder/weights
    --encoders.annotation_vae $runs/annotation-vae/weights"
latents() { # latents NAME PAIRS ARGUMENTS...
    local name=$1 pairs=$2
    shift 2
    job "$name" encode $demo/encode.yaml --run "$name" --pairs "$pairs" $encoders $beside --workers.num 3 --batch_size 256 "$@"
}
latents latents-labelled "$runs/train" --slices "0:$labelled"
latents latents-labels "$runs/labels"
latents latents-pictures "$runs/pictures" --slices "$labelled:"
latents latents-true "$runs/train"
latents latents-validation "$runs/validation" --flip False
together

joint() { # joint NAME SHARES LATENTS...
    local name=$1 shares=$2
    shift 2
    job "$name" train_joint $demo/joint.yaml --run "$name" --train "$@" --shares $shares \
        --validation "$runs/latents-validation" $beside --optimisation.batch_size 256 \
        --optimisation.num_examples "$(whole "${JOINT_EXAMPLES:-640000}" 512)" --checkpoint_examples 200000 \
        --evaluate_examples 400000 --log_every_s "${LOG_EVERY:-5}"
}
joint joint "1 3" "$runs/latents-labelled" "$runs/latents-labels"
joint joint-unlabelled "1 3" "$runs/latents-labelled" "$runs/latents-pictures"
joint joint-true "1" "$runs/latents-true"
together

synthetic() { # synthetic NAME BUNDLE
    job "$1" generate $demo/generate.yaml --run "$1" --bundle "$runs/$2/weights" --prompts "$runs/pictures" \
        --pairs "$(whole 4096 64)" --sampler.batch_size "${SAMPLE_BATCH:-256}" $beside
}
synthetic synthetic joint
synthetic synthetic-unlabelled joint-unlabelled
synthetic synthetic-true joint-true
together

[[ ${PROOF:-1} == 0 ]] && exit 0

# The segmenters. A config names its sets by their folders, so it is written anew for other RUNS.
here() {
    local named="s#real 512#real $labelled#; s#\"0:512\"#\"0:$labelled\"#g; s#\"512:\"#\"$labelled:\"#g"
    named="$named; s#\"0:1024\"#\"0:$((2 * labelled))\"#; s#\"0:2048\"#\"0:$((4 * labelled))\"#"
    local pictures="s#generator_pictures: 11_776#generator_pictures: $((pairs - labelled))#"
    sed "s#runs/garments/#$runs/#g; s#0:4096#0:$(whole 4096 32)#; $named; $pictures" "$demo/$1.yaml" >"$runs/logs/$1.yaml"
    echo "$runs/logs/$1.yaml"
}
steps="--steps $(whole 3072 20) $beside"
tries="--try_steps $(whole 768 5) $(whole 1536 10) $(whole 3072 20)"
job few_labels evaluate "$(here few_labels)" $beside --seeds "${SEEDS:-3}" --at_once "${AT_ONCE:-10}" $tries
job generators evaluate "$(here generators)" $steps --seeds "${SEEDS:-3}" --at_once "${AT_ONCE:-10}"
for kind in deeplabv3_r50 mask2former_r50 mask2former_swin_s segformer_b0; do
    job $kind evaluate "$(here segmenters)" --run $kind --segmenter $kind --steps "$(whole 400 4)" $beside
done
together
