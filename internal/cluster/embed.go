package cluster

// MaxEmbedInputs bounds the texts of one EmbedRequest.
const MaxEmbedInputs = 256

// Pooling says which hidden states of a text become its vector.
type Pooling string

// Poolings; empty is PoolingLast.
const (
	PoolingLast Pooling = "last" // that of the last token, which has seen all others
	PoolingMean Pooling = "mean" // the mean of all
)

// EmbedRequest asks for one vector a text. Validate says what is wrong with it.
type EmbedRequest struct {
	Model   string       `json:"model"`
	Inputs  []EmbedInput `json:"inputs"`
	Pooling Pooling      `json:"pooling,omitempty"`
}

// EmbedInput is one text, or the tokens of one.
type EmbedInput struct {
	Prompt string `json:"prompt,omitempty"`
	Tokens []int  `json:"tokens,omitempty"`
}

// Embeddings are vectors of length one, in the order of the inputs.
type Embeddings struct {
	Vectors      [][]float32 `json:"vectors"`
	PromptTokens int         `json:"prompt_tokens"` // of all inputs together
}

// Validate checks what can be checked without the model and returns an *Error with CodeInvalid that names the field.
func (r *EmbedRequest) Validate() error {
	if err := ValidateModel(r.Model); err != nil {
		return err
	}
	switch {
	case len(r.Inputs) == 0:
		return Invalid("inputs", "must hold at least one text")
	case len(r.Inputs) > MaxEmbedInputs:
		return Invalid("inputs", "may hold at most "+number(MaxEmbedInputs)+" texts")
	case r.Pooling != "" && r.Pooling != PoolingLast && r.Pooling != PoolingMean:
		return Invalid("pooling", "must be last or mean, not "+quote(string(r.Pooling)))
	}
	for i, in := range r.Inputs {
		if (in.Prompt == "") == (len(in.Tokens) == 0) {
			return Invalid(indexed("inputs", i, ""), "must hold a text or tokens")
		}
	}
	return nil
}
