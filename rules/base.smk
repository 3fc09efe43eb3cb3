# Pretrained pipelines that experiments start from.


rule prepare_base:
    input:
        manifest=scratch_data,
        weights=weights_files,
    output:
        record=f"{RESULTS}/base/{{base}}/base.json",
    log:
        f"{RESULTS}/logs/prepare_base/{{base}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_base/{{base}}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        settings=lambda w: settings(CONFIG.bases[w.base]),
        out=f"{RESULTS}/base/{{base}}",
        manifest=lambda w, input: (
            f"--manifest '{input.manifest}'" if input.manifest else ""
        ),
    message:
        "Checking base {wildcards.base}: every file is there and hashed."
    shell:
        "mvfl base prepare --settings {params.settings:q} --out {params.out:q}"
        " {params.manifest} --threads {threads} --log {log:q}"
