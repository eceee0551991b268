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
// is returned. A key that is signed again afterwards is let in again.
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
	// Another process may have revoked something since.
	data, err := os.ReadFile(filepath.Join(a.dir, fileAccount))
	if err != nil {
		return "", "", fmt.Errorf("read account: %w", err)
	}
	claims, err := a.claims(string(data))
	if err != nil {
		return "", "", err
	}
	claims.Revoke(pub)
	token, err := claims.Encode(a.operator)
	if err != nil {
		return "", "", fmt.Errorf("sign account: %w", err)
	}
	if err := replace(a.dir, fileAccount, []byte(token)); err != nil {
		return "", "", err
	}
	a.accountJWT = token
	return a.accountPub, token, nil
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
