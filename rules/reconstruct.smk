# 3D models of all samples of a data set, in pieces that can run beside each other; one page of all.


rule reconstruct_samples:
    input:
        unpack(ASKED.inputs("models")),
    output:
        piece=str(LAYOUT.models_piece("{experiment}", "{scatteritem}")),
    log:
        LAYOUT.log("reconstruct_samples", "{experiment}-{scatteritem}"),
    benchmark:
        LAYOUT.benchmark("reconstruct_samples", "{experiment}-{scatteritem}")
    conda:
        "../envs/cuda.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime=720,
        gpu=0,
    params:
        decisive=ASKED.decisive("models"),
        job=ASKED.job("models"),
    message:
        "Making 3D models with {wildcards.experiment}, piece {wildcards.scatteritem}."
    shell:
        "mvfl models --job {params.job:q} --minutes {resources.runtime} --threads {threads} --log {log:q}"


rule summarise_models:
    input:
        pieces=gather.reconstruct(
            str(LAYOUT.models_piece("{{experiment}}", "{scatteritem}"))
        ),
    output:
        **LAYOUT.models("{experiment}").declared(),
    log:
        LAYOUT.log("summarise_models", "{experiment}"),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        settings=CONFIG.reconstruct.model_dump_json(),
        job=lambda w, input: PLAN.models_page(
            w.experiment, input.pieces
        ).model_dump_json(),
    message:
        "Writing page, tables and viewer of the models of {wildcards.experiment}."
    shell:
        "mvfl models-page --job {params.job:q} --log {log:q}"
