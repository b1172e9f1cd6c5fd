# lite-0-eg-0, world rank 0
vllm \
  serve \
  /models/model \
  --served-model-name=deepseek-ai/DeepSeek-V2-Lite \
  --port=8000 \
  --tensor-parallel-size=1 \
  --enable-expert-parallel \
  --data-parallel-size=4 \
  --data-parallel-size-local=1 \
  --data-parallel-start-rank=0 \
  --data-parallel-address=lite-0-eg-0.findep-ranks.serving.svc \
  --data-parallel-rpc-port=13345 \
  --max-model-len=512 \
  --enable-dbo \
  --ubatch-size=2 \
  --dbo-decode-token-threshold=32 \
  --dbo-prefill-token-threshold=512 \
  --additional-config={"afd":{"role":"ffn","connector":"P2pNcclAFDConnector","host":"lite-0-eg-0.findep-ranks.serving.svc","port":1239,"num_attention_ranks":4,"num_ffn_ranks":4,"compute_gate_on_attention":false}}
# lite-0-eg-1, world rank 1
vllm \
  serve \
  /models/model \
  --served-model-name=deepseek-ai/DeepSeek-V2-Lite \
  --port=8000 \
  --tensor-parallel-size=1 \
  --enable-expert-parallel \
  --data-parallel-size=4 \
  --data-parallel-size-local=1 \
  --data-parallel-start-rank=1 \
  --data-parallel-address=lite-0-eg-0.findep-ranks.serving.svc \
  --data-parallel-rpc-port=13345 \
  --headless \
  --max-model-len=512 \
  --enable-dbo \
  --ubatch-size=2 \
  --dbo-decode-token-threshold=32 \
  --dbo-prefill-token-threshold=512 \
  --additional-config={"afd":{"role":"ffn","connector":"P2pNcclAFDConnector","host":"lite-0-eg-0.findep-ranks.serving.svc","port":1239,"num_attention_ranks":4,"num_ffn_ranks":4,"compute_gate_on_attention":false}}
# lite-0-eg-2, world rank 2
vllm \
  serve \
  /models/model \
  --served-model-name=deepseek-ai/DeepSeek-V2-Lite \
  --port=8000 \
  --tensor-parallel-size=1 \
  --enable-expert-parallel \
  --data-parallel-size=4 \
  --data-parallel-size-local=1 \
  --data-parallel-start-rank=2 \
  --data-parallel-address=lite-0-eg-0.findep-ranks.serving.svc \
  --data-parallel-rpc-port=13345 \
  --headless \
  --max-model-len=512 \
  --enable-dbo \
  --ubatch-size=2 \
  --dbo-decode-token-threshold=32 \
  --dbo-prefill-token-threshold=512 \
  --additional-config={"afd":{"role":"ffn","connector":"P2pNcclAFDConnector","host":"lite-0-eg-0.findep-ranks.serving.svc","port":1239,"num_attention_ranks":4,"num_ffn_ranks":4,"compute_gate_on_attention":false}}
# lite-0-eg-3, world rank 3
vllm \
  serve \
  /models/model \
  --served-model-name=deepseek-ai/DeepSeek-V2-Lite \
  --port=8000 \
  --tensor-parallel-size=1 \
  --enable-expert-parallel \
  --data-parallel-size=4 \
  --data-parallel-size-local=1 \
  --data-parallel-start-rank=3 \
  --data-parallel-address=lite-0-eg-0.findep-ranks.serving.svc \
  --data-parallel-rpc-port=13345 \
  --headless \
  --max-model-len=512 \
  --enable-dbo \
  --ubatch-size=2 \
  --dbo-decode-token-threshold=32 \
  --dbo-prefill-token-threshold=512 \
  --additional-config={"afd":{"role":"ffn","connector":"P2pNcclAFDConnector","host":"lite-0-eg-0.findep-ranks.serving.svc","port":1239,"num_attention_ranks":4,"num_ffn_ranks":4,"compute_gate_on_attention":false}}
# lite-0-ag-0, world rank 4
vllm \
  serve \
  /models/model \
  --served-model-name=deepseek-ai/DeepSeek-V2-Lite \
  --port=8000 \
  --tensor-parallel-size=1 \
  --enable-expert-parallel \
  --data-parallel-size=4 \
  --data-parallel-size-local=1 \
  --data-parallel-start-rank=0 \
  --data-parallel-address=lite-0-ag-0.findep-ranks.serving.svc \
  --data-parallel-rpc-port=13345 \
  --max-model-len=512 \
  --enable-dbo \
  --ubatch-size=2 \
  --dbo-decode-token-threshold=32 \
  --dbo-prefill-token-threshold=512 \
  --additional-config={"afd":{"role":"attention","connector":"P2pNcclAFDConnector","host":"lite-0-eg-0.findep-ranks.serving.svc","port":1239,"num_attention_ranks":4,"num_ffn_ranks":4,"compute_gate_on_attention":false}}
# lite-0-ag-1, world rank 5
vllm \
  serve \
  /models/model \
  --served-model-name=deepseek-ai/DeepSeek-V2-Lite \
  --port=8000 \
  --tensor-parallel-size=1 \
  --enable-expert-parallel \
  --data-parallel-size=4 \
  --data-parallel-size-local=1 \
  --data-parallel-start-rank=1 \
  --data-parallel-address=lite-0-ag-0.findep-ranks.serving.svc \
  --data-parallel-rpc-port=13345 \
  --headless \
  --max-model-len=512 \
  --enable-dbo \
  --ubatch-size=2 \
  --dbo-decode-token-threshold=32 \
  --dbo-prefill-token-threshold=512 \
  --additional-config={"afd":{"role":"attention","connector":"P2pNcclAFDConnector","host":"lite-0-eg-0.findep-ranks.serving.svc","port":1239,"num_attention_ranks":4,"num_ffn_ranks":4,"compute_gate_on_attention":false}}
# lite-0-ag-2, world rank 6
vllm \
  serve \
  /models/model \
  --served-model-name=deepseek-ai/DeepSeek-V2-Lite \
  --port=8000 \
  --tensor-parallel-size=1 \
  --enable-expert-parallel \
  --data-parallel-size=4 \
  --data-parallel-size-local=1 \
  --data-parallel-start-rank=2 \
  --data-parallel-address=lite-0-ag-0.findep-ranks.serving.svc \
  --data-parallel-rpc-port=13345 \
  --headless \
  --max-model-len=512 \
  --enable-dbo \
  --ubatch-size=2 \
  --dbo-decode-token-threshold=32 \
  --dbo-prefill-token-threshold=512 \
  --additional-config={"afd":{"role":"attention","connector":"P2pNcclAFDConnector","host":"lite-0-eg-0.findep-ranks.serving.svc","port":1239,"num_attention_ranks":4,"num_ffn_ranks":4,"compute_gate_on_attention":false}}
# lite-0-ag-3, world rank 7
vllm \
  serve \
  /models/model \
  --served-model-name=deepseek-ai/DeepSeek-V2-Lite \
  --port=8000 \
  --tensor-parallel-size=1 \
  --enable-expert-parallel \
  --data-parallel-size=4 \
  --data-parallel-size-local=1 \
  --data-parallel-start-rank=3 \
  --data-parallel-address=lite-0-ag-0.findep-ranks.serving.svc \
  --data-parallel-rpc-port=13345 \
  --headless \
  --max-model-len=512 \
  --enable-dbo \
  --ubatch-size=2 \
  --dbo-decode-token-threshold=32 \
  --dbo-prefill-token-threshold=512 \
  --additional-config={"afd":{"role":"attention","connector":"P2pNcclAFDConnector","host":"lite-0-eg-0.findep-ranks.serving.svc","port":1239,"num_attention_ranks":4,"num_ffn_ranks":4,"compute_gate_on_attention":false}}
