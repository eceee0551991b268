package share

import (
	"crypto/sha256"
	"encoding/json"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Key stands for all requests that have the same answer.
type Key [sha256.Size]byte

// KeyOf returns the key of a request for the model with a digest, and whether it may share its answer at all. It may
// when the answer is decided by the request alone: temperature 0 is asked for in so many words, since a model's own
// default may be another, the model's digest is known, and no earlier attempt is continued. Two such requests are
// identical when everything is equal that a model is given or a client is told: messages, tools and template arguments
// byte for byte, every bound, penalty and stop sequence, what is said of log probabilities, and the node that is asked
// for. Not counted are id, session and timeout, which change where and how long, and the seed, which draws nothing.
func KeyOf(req *cluster.Request, digest string) (Key, bool) {
	if digest == "" || req.Temperature == nil || *req.Temperature != 0 || len(req.Continue) > 0 {
		return Key{}, false
	}
	same := *req
	same.ID, same.Session, same.Timeout, same.Seed = "", "", 0, nil
	// Maps are written in the order of their keys, so equal requests give equal bytes.
	body, err := json.Marshal(struct {
		Digest  string           `json:"digest"`
		Request *cluster.Request `json:"request"`
	}{digest, &same})
	if err != nil { // raw JSON that is none; the model's side says so better
		return Key{}, false
	}
	return sha256.Sum256(body), true
}
