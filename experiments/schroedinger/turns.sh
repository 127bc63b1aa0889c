#!/usr/bin/env bash
# Iterative Markovian fitting: halves in turn, each from where it stood, on the pairs of the other's walks.
#     bash experiments/schroedinger/turns.sh runs/schroedinger 3
# What follows is given to every run: to see that all goes through, in small,
#     bash experiments/schroedinger/turns.sh /tmp/turns 1 --config.train.steps=40 --config.data.n=500 --config.eval.samples=64
set -euo pipefail
folder=${1:?a folder} turns=${2:-3}
shift $(($# < 2 ? $# : 2))
more=("$@")
run() { python -m diffjax.main "$@" ${more[@]+"${more[@]}"}; }
recipe=configs/schroedinger.py
run --config=$recipe:moons --workdir="$folder/moons-1"
for ((turn = 1; turn <= turns; turn++)); do
  python experiments/schroedinger/pairs.py --workdir="$folder/moons-$turn" --out="$folder/of-moons-$turn.npz"
  if ((turn == 1)); then
    run --config=$recipe:gaussians_again --config.data.pairs="$folder/of-moons-1.npz" \
      --config.train.steps=6000 --workdir="$folder/gaussians-1"
  else
    run --config=$recipe:gaussians_again --config.data.pairs="$folder/of-moons-$turn.npz" \
      --config.train.start="$folder/gaussians-$((turn - 1))" --workdir="$folder/gaussians-$turn"
  fi
  python experiments/schroedinger/pairs.py --workdir="$folder/gaussians-$turn" --out="$folder/of-gaussians-$turn.npz"
  run --config=$recipe:moons_again --config.data.pairs="$folder/of-gaussians-$turn.npz" \
    --config.train.start="$folder/moons-$turn" --workdir="$folder/moons-$((turn + 1))"
done
python experiments/schroedinger/table.py "$folder"/moons-* "$folder"/gaussians-* --out="$folder/table"
