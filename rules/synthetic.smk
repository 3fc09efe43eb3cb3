# Generated views per sample, from the checkpoint that was judged; in pieces that can run beside each other.


rule generate_synthetic:
    input:
        unpack(ASKED.inputs("synthetic")),
    output:
        piece=str(LAYOUT.piece("{experiment}", "{scatteritem}")),
    log:
        LAYOUT.log("generate_synthetic", "{experiment}-{scatteritem}"),
    benchmark:
        LAYOUT.benchmark("generate_synthetic", "{experiment}-{scatteritem}")
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=growing(
            16000, LAYOUT.log("generate_synthetic", "{experiment}-{scatteritem}")
        ),
        runtime=720,
        gpu=0,
    params:
        decisive=ASKED.decisive("synthetic"),
        job=ASKED.job("synthetic"),
    message:
        "Sampling the views of {wildcards.experiment}, piece {wildcards.scatteritem}."
    shell:
        "mvfl synthetic --job {params.job:q} --minutes {resources.runtime} --threads {threads} --log {log:q}"


rule join_synthetic:
    input:
        unpack(ASKED.inputs("generation")),
        pieces=gather.synthetic(str(LAYOUT.piece("{{experiment}}", "{scatteritem}"))),
    output:
        manifest=str(LAYOUT.synthetic("{experiment}")),
    log:
        LAYOUT.log("join_synthetic", "{experiment}"),
    benchmark:
        LAYOUT.benchmark("join_synthetic", "{experiment}")
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        decisive=ASKED.decisive("generation"),  # pieces of another number have no record that would tell of a change
        job=lambda w, input: PLAN.join(w.experiment, input.pieces).model_dump_json(),
    message:
        "Joining the pieces of {wildcards.experiment}."
    shell:
        "mvfl join --job {params.job:q} --log {log:q}"
