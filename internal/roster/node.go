package roster

import (
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Node is one admitted node.
type Node struct {
	ID   cluster.NodeID `json:"id"`
	Name string         `json:"name"`
	Key  string         `json:"key"` // public key that was signed for it
	// Host is what SSH is given to reach it, as the operator or Bonjour named it; empty for one that joined by a token.
	Host string `json:"host,omitempty"`
	// Addresses are where it was reached last, best first, without a port.
	Addresses []string `json:"addresses,omitempty"`
	Port      int      `json:"port,omitempty"` // of SSH; zero means what ssh would use
	User      string   `json:"user,omitempty"`
	// HostKey is the SHA256 fingerprint of its SSH host key: the same Mac under three names is one Mac.
	HostKey string `json:"host_key,omitempty"`
	// Hardware is the hash of the machine's own number: a copy of its disk has its host key, too, but not this.
	Hardware string `json:"hardware,omitempty"`
	Home     string `json:"home,omitempty"` // the node's folder there
	Unit     string `json:"unit,omitempty"` // plan.UnitKind
	Version  string `json:"version,omitempty"`
	// Reverse lists addresses, host and port, on which the controller dials the agent; empty where the agent dials.
	Reverse []string `json:"reverse,omitempty"`
	// Drained is the command that emptied it for a while and has yet to undo that; empty where none did. One that a person
	// drained has nothing here.
	Drained string `json:"drained,omitempty"`
	// Settings is a digest of what it runs with, so that a change of them is noticed without asking it.
	Settings string    `json:"settings,omitempty"`
	By       string    `json:"by"` // "ssh", "token" or "local"
	AddedAt  time.Time `json:"added_at"`
}
