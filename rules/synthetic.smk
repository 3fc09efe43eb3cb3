# Six generated views per sample, from the checkpoint that was judged; in pieces that can run beside each other.


scattergather:
    synthetic=1,


rule generate_synthetic:
    input:
        unpack(synthetic_inputs),
    output:
        piece=f"{RESULTS}/experiments/{{experiment}}/synthetic/pieces/{{scatteritem}}.json",
    log:
        f"{RESULTS}/logs/generate_synthetic/{{experiment}}-{{scatteritem}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate_synthetic/{{experiment}}-{{scatteritem}}.tsv"
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime=720,
        gpu=0,
    params:
        settings=lambda w: settings(experiment_of(w.experiment), Generation),
        state=lambda w: state_of(w.experiment, "synthetic"),
    message:
        "Drawing six views per sample with {wildcards.experiment}, piece {wildcards.scatteritem}."
    shell:
        "mvfl synthetic --settings {params.settings:q} --manifest {input.manifest:q} --base {input.base:q}"
        " --checkpoint {input.checkpoint:q} --prompts {input.prompts:q} --state {params.state:q} --out {output.piece:q}"
        " --piece {wildcards.scatteritem} --minutes {resources.runtime} --threads {threads} --log {log:q}"


rule join_synthetic:
    input:
        unpack(synthetic_inputs),
        pieces=gather.synthetic(
            f"{RESULTS}/experiments/{{{{experiment}}}}/synthetic/pieces/{{scatteritem}}.json"
        ),
    output:
        manifest=f"{RESULTS}/experiments/{{experiment}}/synthetic/manifest.json",
    log:
        f"{RESULTS}/logs/join_synthetic/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/join_synthetic/{{experiment}}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=lambda w: settings(experiment_of(w.experiment), Generation),
        state=lambda w: state_of(w.experiment, "synthetic"),
        out=subpath(output.manifest, parent=True),
    message:
        "Joining the pieces of {wildcards.experiment}."
    shell:
        "mvfl join-synthetic {input.pieces:q} --settings {params.settings:q} --manifest {input.manifest:q}"
        " --base {input.base:q} --checkpoint {input.checkpoint:q} --prompts {input.prompts:q} --state {params.state:q}"
        " --out {params.out:q} --log {log:q}"
