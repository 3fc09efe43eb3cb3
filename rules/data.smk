# Samples and their manifest: rendered, made of a recording, or checked where they are.


rule prepare_dataset:
    input:
        lambda w: user_files.recorded_files(CONFIG.datasets[w.dataset]),
    output:
        manifest=str(LAYOUT.manifest("{dataset}")),
    log:
        LAYOUT.log("prepare_dataset", "{dataset}"),
    benchmark:
        LAYOUT.benchmark("prepare_dataset", "{dataset}")
    conda:
        "../envs/cpu.yaml"
    threads: 16
    resources:
        mem_mb=growing(8000, LAYOUT.log("prepare_dataset", "{dataset}")),
        runtime=240,
    params:
        decisive=ASKED.decisive("data"),
        files=lambda w: user_files.recorded_mark(CONFIG.datasets[w.dataset]),
        job=ASKED.job("data"),
    message:
        "Preparing the samples of data set {wildcards.dataset} and checking their cameras."
    shell:
        "mvfl data --job {params.job:q} --threads {threads} --log {log:q}"
