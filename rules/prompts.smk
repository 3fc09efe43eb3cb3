# Prompt embeddings, made with the base's own text encoder.


rule embed_prompts:
    input:
        base=f"{RESULTS}/base/{{base}}/base.json",
    output:
        embeds=f"{RESULTS}/prompts/{{base}}/{{style}}/clr_embeds.pt",
        metadata=f"{RESULTS}/prompts/{{base}}/{{style}}/metadata.json",
        similarity=f"{RESULTS}/prompts/{{base}}/{{style}}/similarity.json",
        picture=f"{RESULTS}/prompts/{{base}}/{{style}}/similarity.png",
    log:
        f"{RESULTS}/logs/embed_prompts/{{base}}-{{style}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/embed_prompts/{{base}}-{{style}}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        out=f"{RESULTS}/prompts/{{base}}/{{style}}",
    message:
        "Encoding the prompts of style {wildcards.style} with base {wildcards.base}."
    shell:
        "mvfl prompts --style {wildcards.style} --base {input.base:q} --output-dir {params.out:q} --log {log:q}"
