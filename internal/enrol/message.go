package enrol

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	path = "/v1/join"
	// mostRequestBytes and mostAnswerBytes bound what either side reads.
	mostRequestBytes, mostAnswerBytes = 4 << 10, 256 << 10
	// bindingLabel names what TLS derives for both ends of one connection, and for nobody else.
	bindingLabel = "EXPORTER-mlxctl-join"
)

// request is what a node says of itself.
type request struct {
	ID   string         `json:"id"` // of the token
	Node cluster.NodeID `json:"node"`
	Key  string         `json:"key"` // public
	Name string         `json:"name,omitempty"`
	// Hardware is a hash of the machine's own number; empty where it says none.
	Hardware string `json:"hardware,omitempty"`
	Proof    []byte `json:"proof"`
	// Signature is Proof, signed with the node's key: nobody can have somebody else's key admitted.
	Signature []byte `json:"signature"`
}

// answer is what it gets.
type answer struct {
	Body  json.RawMessage `json:"body"` // Answer
	Proof []byte          `json:"proof"`
}

// Answer is what makes a node a member of the cluster.
type Answer struct {
	JWT string `json:"jwt"`
	// CA is the certificate that the bus is checked against, PEM.
	CA string `json:"ca"`
	// Settings are what the node runs with, as the controller's side was given them.
	Settings json.RawMessage `json:"settings"`
}

// binding ties a proof to one TLS connection: a copy of it is worth nothing on any other, so that nothing has to be
// remembered against replays, and whoever sits between two connections can use neither end's proof at the other.
func binding(s *tls.ConnectionState) ([]byte, error) {
	b, err := s.ExportKeyingMaterial(bindingLabel, nil, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("bind to the connection: %w", err)
	}
	return b, nil
}

// proveRequest is the proof that whoever holds the token wants this node admitted, over this connection, by the cluster
// of this pin.
func proveRequest(mac []byte, r *request, pin [sha256.Size]byte, bind []byte) []byte {
	return prove(mac, "request", []byte(r.ID), []byte(r.Key), []byte(r.Node), []byte(r.Name), []byte(r.Hardware), pin[:], bind)
}

// proveAnswer is the proof that whoever answers holds the token as well.
func proveAnswer(mac, body, bind []byte) []byte { return prove(mac, "answer", body, bind) }

// prove is a MAC over parts, each with its length, so that no two lists of parts are the same bytes.
func prove(mac []byte, what string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, mac)
	for _, part := range append([][]byte{[]byte("mlxctl join 1 " + what)}, parts...) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:]) // a hash takes everything
		h.Write(part)
	}
	return h.Sum(nil)
}
