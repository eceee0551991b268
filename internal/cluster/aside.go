package cluster

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"time"
)

// Aside asks a model for something that is no answer. Exactly one of Embed, Tokenize and Detokenize is set; their own
// fields for the model do not count. Validate says what is wrong with it.
type Aside struct {
	ID         RequestID     `json:"id,omitempty"`
	Model      string        `json:"model"`
	Node       NodeID        `json:"node,omitempty"`       // empty lets the scheduler choose
	Timeout    time.Duration `json:"timeout_ns,omitempty"` // zero means the cluster's limit
	Embed      *EmbedRequest `json:"embed,omitempty"`
	Tokenize   *Request      `json:"tokenize,omitempty"` // only what makes a prompt counts
	Detokenize []int         `json:"detokenize,omitempty"`
}

// Validate checks what can be checked without the model and returns an *Error with CodeInvalid that names the field.
func (a *Aside) Validate() error {
	set := 0
	for _, is := range []bool{a.Embed != nil, a.Tokenize != nil, len(a.Detokenize) > 0} {
		if is {
			set++
		}
	}
	if err := ValidateModel(a.Model); err != nil {
		return err
	}
	switch {
	case a.Timeout < 0:
		return Invalid("timeout", "must not be negative")
	case set != 1:
		return Invalid("request", "must ask for exactly one of vectors, tokens and text")
	case a.Embed != nil:
		own := *a.Embed
		own.Model = a.Model
		return own.Validate()
	case a.Tokenize != nil:
		own := *a.Tokenize
		own.Model = a.Model
		return own.Validate()
	}
	return nil
}

// AsideReply is what an Aside brought, or a piece of that which fits one message: Add puts pieces together.
type AsideReply struct {
	Vectors      []Vector `json:"vectors,omitempty"`
	PromptTokens int      `json:"prompt_tokens,omitempty"` // of all inputs of vectors together
	Tokens       []int    `json:"tokens,omitempty"`
	Text         string   `json:"text,omitempty"`
}

// Add appends a piece.
func (r *AsideReply) Add(piece *AsideReply) {
	r.Vectors = append(r.Vectors, piece.Vectors...)
	r.PromptTokens += piece.PromptTokens
	r.Tokens = append(r.Tokens, piece.Tokens...)
	r.Text += piece.Text
}

// Numbers of a piece, four bytes each as they travel; a piece holds at least one vector.
const pieceNumbers = 64 << 10

// Pieces returns the reply in pieces, at least one. Its text is in one: it is at most a model's context long.
func (r *AsideReply) Pieces() []AsideReply {
	out := []AsideReply{{PromptTokens: r.PromptTokens, Text: r.Text}}
	held := 0
	for _, v := range r.Vectors {
		if held > 0 && held+len(v) > pieceNumbers {
			out, held = append(out, AsideReply{}), 0
		}
		last := &out[len(out)-1]
		last.Vectors = append(last.Vectors, v)
		held += len(v)
	}
	for start := 0; start < len(r.Tokens); start += pieceNumbers {
		if start > 0 {
			out = append(out, AsideReply{})
		}
		out[len(out)-1].Tokens = r.Tokens[start:min(start+pieceNumbers, len(r.Tokens))]
	}
	return out
}

// Vector travels as little-endian float32 in base64.
type Vector []float32

const floatBytes = 4

// AppendBase64 appends the vector as it travels, without quotes.
func (v Vector) AppendBase64(dst []byte) []byte {
	raw := make([]byte, 0, floatBytes*len(v))
	for _, f := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
	}
	return base64.StdEncoding.AppendEncode(dst, raw)
}

// MarshalJSON writes the vector as a string.
func (v Vector) MarshalJSON() ([]byte, error) {
	return append(v.AppendBase64([]byte{'"'}), '"'), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (v *Vector) UnmarshalJSON(data []byte) error {
	var raw []byte
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	if len(raw) == 0 || len(raw)%floatBytes != 0 {
		return errors.New("the length of a vector is no multiple of four bytes")
	}
	*v = make(Vector, len(raw)/floatBytes)
	for i := range *v {
		(*v)[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[i*floatBytes:]))
	}
	return nil
}
