package agent

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// rejoin takes in another token, or another key, from the controller. The connection goes on as it is: the server ends
// it when what it was made with is worth nothing any more, and the next one is made with what was taken in.
func (a *Agent) rejoin(_ context.Context, _ string, decode func(any) error) (any, error) {
	var q bus.RejoinRequest
	if err := decode(&q); err != nil {
		return nil, err
	}
	id := a.o.Identity
	if id == nil {
		return nil, a.here(cluster.Errorf(cluster.CodeUnsupported, "this node uses credentials that others keep"))
	}
	if q.NewKey {
		if err := id.makeNext(); err != nil {
			return nil, a.here(err)
		}
	}
	if q.JWT != "" {
		if err := id.rejoin(q.JWT); err != nil {
			return nil, a.here(err)
		}
		a.log.Info("the cluster renewed this node's credentials", "node", id.ID, "key", keyOfFile(id.CredentialsPath))
	}
	reply := bus.RejoinReply{Live: a.conn.PublicKey()}
	c, err := bus.CredentialsFromFile(id.CredentialsPath)
	if err != nil {
		return nil, a.here(err)
	}
	reply.JWT = c.JWT
	if reply.Next, reply.Proof, err = id.next(); err != nil {
		return nil, a.here(err)
	}
	return reply, nil
}

// keyOfFile is the public key of a credentials file; empty where there is none.
func keyOfFile(path string) string {
	c, err := bus.CredentialsFromFile(path)
	if err != nil {
		return ""
	}
	key, err := c.PublicKey()
	if err != nil {
		return ""
	}
	return key
}

// makeNext makes a key that is to replace the one in use. Asked again, it is the same one until it is in use.
func (i *Identity) makeNext() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.file.Next != nil {
		return nil
	}
	pub, seed, err := i.newKey()
	if err != nil {
		return err
	}
	f := i.file
	f.Next = &identityKey{PublicKey: pub, Seed: string(seed)}
	if err := writeSecret(i.path, f); err != nil {
		return err
	}
	i.file = f
	return nil
}

// next returns the key that makeNext made, with the proof that it is here; nothing where there is none.
func (i *Identity) next() (pub string, proof []byte, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	k := i.file.Next
	if k == nil {
		return "", nil, nil
	}
	proof, err = bus.Credentials{Seed: []byte(k.Seed)}.Sign(bus.NextKeyClaim(i.ID, k.PublicKey))
	return k.PublicKey, proof, err
}

// Sign signs data with the node's key, which itself goes nowhere.
func (i *Identity) Sign(data []byte) ([]byte, error) { return bus.Credentials{Seed: i.seed}.Sign(data) }

// rejoin writes the credentials of a token that is for the key in use, or for the next one, which is in use from then
// on.
func (i *Identity) rejoin(token string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	own := bus.Credentials{JWT: token, Seed: []byte(i.file.Seed)}
	err := own.CheckKey()
	if err == nil {
		return own.WriteFile(i.CredentialsPath)
	}
	if i.file.Next == nil {
		return err
	}
	next := bus.Credentials{JWT: token, Seed: []byte(i.file.Next.Seed)}
	if err := next.CheckKey(); err != nil {
		return err
	}
	if err := next.WriteFile(i.CredentialsPath); err != nil {
		return err
	}
	f := i.file
	f.use(f.Next)
	if err := writeSecret(i.path, f); err != nil {
		return err
	}
	i.file = f
	return nil
}

// use makes a key the node's own.
func (f *identityFile) use(k *identityKey) {
	f.PublicKey, f.Seed, f.Next = k.PublicKey, k.Seed, nil
}
