package cluster

// Model is one model as a node finds it on its disk.
type Model struct {
	// Name is what a request says: "tiny", "org/repo", or an absolute folder path.
	Name string `json:"name"`
	// Revision is the commit of a Hugging Face snapshot; empty where there is none.
	Revision string `json:"revision,omitempty"`
	// Digest identifies the content: two nodes with the same digest give the same answer.
	Digest       string `json:"digest"`
	Architecture string `json:"architecture,omitempty"` // model_type of config.json
	Quantization string `json:"quantization,omitempty"` // "4-bit", "bf16"
	// WeightBytes is the sum over the safetensors headers; KVBytesPerToken is for one token in all layers at the
	// precision that the node will run it in.
	WeightBytes     int64 `json:"weight_bytes"`
	KVBytesPerToken int64 `json:"kv_bytes_per_token"`
	Context         int   `json:"context"` // tokens
	// Layers, Parameters and ActiveParameters, those that one token uses, say how much there is to compute; 0 where the
	// files do not tell. They are counted from configuration and headers, and good enough to estimate a speed.
	Layers           int   `json:"layers,omitempty"`
	Parameters       int64 `json:"parameters,omitempty"`
	ActiveParameters int64 `json:"active_parameters,omitempty"`
}
