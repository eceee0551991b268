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
	Shape            Shape `json:"shape,omitzero"`
}

// Shape is what the memory of a model is planned from, beside its weights. A zero field is not known, or there is
// nothing of the kind.
type Shape struct {
	HalfBytes  int64 `json:"half_bytes,omitempty"` // of the weights, in 16-bit floats, which a CPU computes in 32 bits
	Hidden     int64 `json:"hidden,omitempty"`     // width of the hidden state, numbers
	Vocabulary int64 `json:"vocabulary,omitempty"` // width of the logits, numbers
	// WindowBytesPerToken is the part of KVBytesPerToken in layers that keep no more than Window tokens.
	WindowBytesPerToken int64 `json:"window_bytes_per_token,omitempty"`
	Window              int64 `json:"window,omitempty"`
	StateBytes          int64 `json:"state_bytes,omitempty"` // of a row, however long, in layers without keys and values
	// ExtraBytes is what the node's settings add: an adapter; a draft model with the keys and values of one row.
	ExtraBytes int64 `json:"extra_bytes,omitempty"`
}
