package trust

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Revoke throws out the holder of a key, for ever: what was signed for that key until now is worth nothing. It is
// written down before it returns, and Accounts has it from then on; a running server has to be given the account that
// is returned, or follows the folder with Reload. A key that is signed again afterwards is let in again.
func (a *Authority) Revoke(pub string) (accountPub, accountJWT string, err error) {
	if !nkeys.IsValidPublicUserKey(pub) {
		return "", "", cluster.Invalid("key", "must be the public key of a user")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	release, err := lock(a.dir)
	if err != nil {
		return "", "", err
	}
	defer release()
	token, err := a.editAccount(func(claims *jwt.AccountClaims) { claims.Revoke(pub) })
	if err != nil {
		return "", "", err
	}
	return a.accountPub, token, nil
}

// Reload returns the account as it is in the folder now, where other processes may have revoked somebody. Accounts has
// it from then on. The error leaves what was known before.
func (a *Authority) Reload() (accountPub, accountJWT string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	data, err := os.ReadFile(filepath.Join(a.dir, fileAccount))
	if err != nil {
		return "", "", fmt.Errorf("read account: %w", err)
	}
	if token := string(data); token != a.accountJWT {
		if _, err := a.claims(token); err != nil {
			return "", "", err
		}
		a.accountJWT = token
	}
	return a.accountPub, a.accountJWT, nil
}

// editAccount changes the account on disk, where another process may have changed it since it was read. Both locks are
// held.
func (a *Authority) editAccount(change func(*jwt.AccountClaims)) (string, error) {
	data, err := os.ReadFile(filepath.Join(a.dir, fileAccount))
	if err != nil {
		return "", fmt.Errorf("read account: %w", err)
	}
	claims, err := a.claims(string(data))
	if err != nil {
		return "", err
	}
	change(claims)
	token, err := claims.Encode(a.operator)
	if err != nil {
		return "", fmt.Errorf("sign account: %w", err)
	}
	if err := replace(a.dir, fileAccount, []byte(token)); err != nil {
		return "", err
	}
	a.accountJWT = token
	return token, nil
}

// claims reads the account, which has to be the one that the key is for.
func (a *Authority) claims(token string) (*jwt.AccountClaims, error) {
	claims, err := jwt.DecodeAccountClaims(token)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", fileAccount, err)
	}
	if claims.Subject != a.accountPub {
		return nil, fmt.Errorf("%s is of another account", fileAccount)
	}
	return claims, nil
}
