package bus

import (
	"bytes"
	"fmt"
	"os"
	"sync"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// Credentials are a user's token and the key that proves it.
type Credentials struct {
	JWT  string
	Seed []byte
}

// CredentialsFromFile reads credentials in the NATS format. The error has CodeUnauthorized.
func CredentialsFromFile(path string) (Credentials, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Credentials{}, cluster.Errorf(cluster.CodeUnauthorized, "cannot read credentials: %v", err)
	}
	bad := func(err error) error {
		return cluster.Errorf(cluster.CodeUnauthorized, "%s holds no credentials: %v", path, err)
	}
	token, err := nkeys.ParseDecoratedJWT(data)
	if err != nil {
		return Credentials{}, bad(err)
	}
	if _, err := jwt.DecodeUserClaims(token); err != nil {
		return Credentials{}, bad(err)
	}
	pair, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return Credentials{}, bad(err)
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return Credentials{}, bad(err)
	}
	return Credentials{JWT: token, Seed: bytes.Clone(seed)}, nil
}

// WriteFile writes credentials in the NATS format, readable by this user only. Whoever reads the file meanwhile gets
// the old ones or the new ones, whole.
func (c Credentials) WriteFile(path string) error {
	data, err := jwt.FormatUserConfig(c.JWT, c.Seed)
	if err != nil {
		return fmt.Errorf("format credentials: %w", err)
	}
	if err := durable.Write(path, data, 0o600); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	return nil
}

// PublicKey is the user's.
func (c Credentials) PublicKey() (string, error) {
	pair, err := nkeys.FromSeed(c.Seed)
	if err != nil {
		return "", fmt.Errorf("read key of credentials: %w", err)
	}
	defer pair.Wipe()
	pub, err := pair.PublicKey()
	if err != nil {
		return "", fmt.Errorf("read key of credentials: %w", err)
	}
	return pub, nil
}

// Sign signs data with the key, for those who know the public half.
func (c Credentials) Sign(data []byte) ([]byte, error) {
	pair, err := nkeys.FromSeed(c.Seed)
	if err != nil {
		return nil, fmt.Errorf("read key of credentials: %w", err)
	}
	defer pair.Wipe()
	signature, err := pair.Sign(data)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return signature, nil
}

// CheckKey says whether the token was signed for this key. The error has CodeUnauthorized.
func (c Credentials) CheckKey() error {
	claims, err := jwt.DecodeUserClaims(c.JWT)
	if err != nil {
		return cluster.Errorf(cluster.CodeUnauthorized, "read token: %v", err)
	}
	key, err := c.PublicKey()
	if err != nil {
		return err
	}
	if claims.Subject != key {
		return cluster.Errorf(cluster.CodeUnauthorized, "the token is for another key")
	}
	return nil
}

// keyring gives a connection its credentials, anew at each connect where they come from a file or are made.
type keyring struct {
	file  string
	renew func() (Credentials, error)

	mu   sync.Mutex
	cred Credentials // guarded by mu
}

func (k *keyring) isEmpty() bool { return k.file == "" && k.renew == nil && k.cred.JWT == "" }

func (k *keyring) token() (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	cred := k.cred
	switch {
	case k.renew != nil:
		cred, err = k.renew()
	case k.file != "":
		cred, err = CredentialsFromFile(k.file)
	}
	if err != nil {
		return "", err
	}
	k.cred = cred
	return cred.JWT, nil
}

func (k *keyring) sign(nonce []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cred.Sign(nonce)
}

func (k *keyring) publicKey() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	pub, err := k.cred.PublicKey()
	if err != nil {
		return "" // nobody had credentials yet
	}
	return pub
}
