package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/mlxctl/mlxctl/internal/durable"
)

// The key that signs users is replaced in three steps, each of which lasts, so that whoever is killed in between goes on
// where it was: AddSigner has servers believe a new key beside the old one, UseSigner signs with it, and RetireSigners
// ends the old one, when whoever is to stay has been signed anew.

// AddSigner makes a new signing key and has the account believe it too. Nothing is signed with it yet except by the
// function that is returned, with which a caller finds out when the running server has taken it in. While a replacement
// is under way, none is made: the function then signs with the key that came last.
func (a *Authority) AddSigner() (signController func(pub string) (string, error), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	release, err := lock(a.dir)
	if err != nil {
		return nil, err
	}
	defer release()
	next, err := a.nextSigner()
	if err != nil {
		return nil, err
	}
	pub, err := next.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	if _, err := a.editAccount(func(claims *jwt.AccountClaims) { claims.SigningKeys.Add(pub) }); err != nil {
		return nil, err
	}
	return func(user string) (string, error) { return a.signController(next, user) }, nil
}

// nextSigner returns the key that is to come, or that came while an older one is still believed. Both locks are held.
func (a *Authority) nextSigner() (nkeys.KeyPair, error) {
	next, err := a.readSigner(fileAccountNext)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return next, err
	}
	current, err := a.readSigner(fileAccountSigner)
	if err != nil {
		return nil, err
	}
	former, err := a.formerSigners(current)
	if err != nil || len(former) > 0 {
		return current, err
	}
	if next, err = nkeys.CreateAccount(); err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	seed, err := next.Seed()
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	return next, replace(a.dir, fileAccountNext, seed)
}

// formerSigners lists the signing keys that the account believes besides the one that signs now.
func (a *Authority) formerSigners(current nkeys.KeyPair) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(a.dir, fileAccount))
	if err != nil {
		return nil, fmt.Errorf("read account: %w", err)
	}
	claims, err := a.claims(string(data))
	if err != nil {
		return nil, err
	}
	var former []string
	for key := range claims.SigningKeys {
		if key != signerOf(current) {
			former = append(former, key)
		}
	}
	return former, nil
}

// UseSigner has everything signed with the key that AddSigner made, by this process and by others. Servers should know
// the key by then.
func (a *Authority) UseSigner() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	release, err := lock(a.dir)
	if err != nil {
		return err
	}
	defer release()
	err = durable.Rename(filepath.Join(a.dir, fileAccountNext), filepath.Join(a.dir, fileAccountSigner))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was taken into use before
	}
	if err != nil {
		return fmt.Errorf("put signing key in place: %w", err)
	}
	return nil
}

// RetireSigners has the account believe the signing key in use alone: what older ones signed is worth nothing, and
// servers close the connections of who came with that.
func (a *Authority) RetireSigners() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	release, err := lock(a.dir)
	if err != nil {
		return err
	}
	defer release()
	current, err := a.readSigner(fileAccountSigner)
	if err != nil {
		return err
	}
	former, err := a.formerSigners(current)
	if err != nil || len(former) == 0 {
		return err
	}
	_, err = a.editAccount(func(claims *jwt.AccountClaims) {
		for _, key := range former {
			delete(claims.SigningKeys, key)
		}
	})
	return err
}

// SignerKey is the public half of the key that signs now.
func (a *Authority) SignerKey() (string, error) {
	pair, err := a.readSigner(fileAccountSigner)
	if err != nil {
		return "", err
	}
	return signerOf(pair), nil
}

// readSigner reads a signing key as it is on disk now: another process may have replaced it.
func (a *Authority) readSigner(name string) (nkeys.KeyPair, error) {
	seed, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return pair, nil
}
