# Samples and their manifest: rendered, or existing folders that are checked.


rule prepare_dataset:
    input:
        recorded_files,
    output:
        manifest=f"{RESULTS}/data/{{dataset}}/manifest.json",
    log:
        f"{RESULTS}/logs/prepare_dataset/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_dataset/{{dataset}}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 16
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=240,
    params:
        settings=lambda w: settings(CONFIG.datasets[w.dataset]),
        pictures=pictures_mark,
        out=f"{RESULTS}/data/{{dataset}}",
    message:
        "Preparing the samples of data set {wildcards.dataset} and checking their cameras."
    shell:
        "mvfl data --name {wildcards.dataset} --settings {params.settings:q}"
        " --out {params.out:q} --threads {threads} --log {log:q}"
