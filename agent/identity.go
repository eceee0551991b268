package agent

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// NewKey makes the key of a node; trust.NewUserKey is one.
type NewKey func() (pub string, seed []byte, err error)

// Identity is who a node is, for its whole life: an id and a key. Both are bound to the hardware that they were made
// on; the key never leaves it.
type Identity struct {
	ID        cluster.NodeID
	PublicKey string
	// Hardware is a hash of what the identity is bound to; empty where the machine says nothing of itself.
	Hardware string
	// CredentialsPath is the file that Join writes and that bus.Options.CredentialsFile reads.
	CredentialsPath string
	// Renewed says why the identity was made anew just now; empty for one that was there.
	Renewed string

	seed   []byte
	path   string
	newKey NewKey

	mu   sync.Mutex
	file identityFile // as on disk; guarded by mu
}

// identityFile is <dir>/node.json.
type identityFile struct {
	ID        cluster.NodeID `json:"id"`
	PublicKey string         `json:"public_key"`
	Seed      string         `json:"seed"`
	// Hardware is a hash: the number of a machine is nobody's business.
	Hardware string `json:"hardware,omitempty"`
	// Next is a key that is to replace the other one when it has been signed.
	Next *identityKey `json:"next,omitempty"`
}

type identityKey struct {
	PublicKey string `json:"public_key"`
	Seed      string `json:"seed"`
}

// LoadIdentity reads the identity in a folder, which it makes if need be. A disk that was cloned, or moved to another
// machine, gets another id and key, and loses the credentials that came with it. An empty hardwareID, of a machine
// that has none, is not compared.
func LoadIdentity(dir, hardwareID string, newKey NewKey) (*Identity, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of identity: %w", err)
	}
	path := filepath.Join(dir, "node.json")
	hardware := plan.HardwareHash(hardwareID)
	f, renewed, err := readIdentity(path, hardware)
	if err != nil {
		return nil, err
	}
	id := &Identity{CredentialsPath: filepath.Join(dir, "node.creds"), Renewed: renewed, path: path, newKey: newKey}
	switch {
	case renewed != "":
		// The credentials go first: together with another id they would be a lie.
		if err := durable.Remove(id.CredentialsPath); err != nil {
			return nil, fmt.Errorf("remove credentials of another identity: %w", err)
		}
		if f, err = makeIdentity(hardware, newKey); err == nil {
			err = writeSecret(path, f)
		}
	case f.Next != nil && keyOfFile(id.CredentialsPath) == f.Next.PublicKey:
		// The process was killed between the two files of a change of key: it is done.
		f.use(f.Next)
		err = writeSecret(path, f)
	case f.Hardware == "" && hardware != "":
		f.Hardware = hardware
		err = writeSecret(path, f)
	}
	if err != nil {
		return nil, err
	}
	id.ID, id.PublicKey, id.Hardware, id.seed, id.file = f.ID, f.PublicKey, f.Hardware, []byte(f.Seed), f
	return id, nil
}

// readIdentity says why there has to be a new one, if there has to.
func readIdentity(path, hardware string) (f identityFile, renewed string, err error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, "this node had none", nil
	case err != nil:
		return f, "", fmt.Errorf("read identity: %w", err)
	case json.Unmarshal(data, &f) != nil || f.ID == "" || f.PublicKey == "" || f.Seed == "":
		return f, "its file was damaged", nil
	case hardware != "" && f.Hardware != "" && f.Hardware != hardware:
		return f, "it was made on another machine", nil
	}
	return f, "", nil
}

func makeIdentity(hardware string, newKey NewKey) (identityFile, error) {
	pub, seed, err := newKey()
	if err != nil {
		return identityFile{}, fmt.Errorf("make key of node: %w", err)
	}
	id := cluster.NodeID(strings.ToLower(rand.Text()[:16])) // 80 bits
	return identityFile{ID: id, PublicKey: pub, Seed: string(seed), Hardware: hardware}, nil
}

// writeSecret replaces a file that only its owner may read, whole or not at all.
func writeSecret(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	if err := durable.Write(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// Join has the public key signed and writes the credentials that come of it. It may be called again, with a new
// signature.
func (i *Identity) Join(sign func(pub string, id cluster.NodeID) (jwt string, err error)) error {
	token, err := sign(i.PublicKey, i.ID)
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	if err := (bus.Credentials{JWT: token, Seed: i.seed}).WriteFile(i.CredentialsPath); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	return nil
}

// HasJoined says whether there are credentials. Whether a cluster believes them, only it can say.
func (i *Identity) HasJoined() bool {
	_, err := os.Stat(i.CredentialsPath)
	return err == nil
}
