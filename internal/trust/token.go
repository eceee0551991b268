package trust

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// MaxTokenLife is the longest that a join token is good for.
	MaxTokenLife = 24 * time.Hour
	// mostTokens bounds the tokens that are remembered.
	mostTokens = 256
	// tokenMemory is how long a token is remembered after its end, so that whoever comes late is told why.
	tokenMemory  = 24 * time.Hour
	secretBytes  = 32
	tokenIDChars = 10
)

// Token lets one node join without SSH.
type Token struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// Used says by whom; nil before that. Until it expires, only they may use it again: their answer may have been lost.
	Used *TokenUse `json:"used,omitempty"`
}

// TokenUse is who used a token.
type TokenUse struct {
	Node cluster.NodeID `json:"node"`
	Key  string         `json:"key"` // public
	At   time.Time      `json:"at"`
}

// IsExpired says whether it is good for nobody any more.
func (t *Token) IsExpired(now time.Time) bool { return !now.Before(t.ExpiresAt) }

// storedToken is a token on disk: what its secret gives, not the secret.
type storedToken struct {
	Token

	MAC []byte `json:"mac_key"`
}

// TokenMAC is the key with which both sides of a join prove that they know a token's secret. The secret itself is with
// whoever was given the token, and nowhere else.
func TokenMAC(id string, secret []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("mlxctl join token 1 " + id)) // a hash takes everything
	return h.Sum(nil)
}

// CreateToken makes a token that is good for one node until ttl has passed. The secret is returned once and not kept.
func (a *Authority) CreateToken(now time.Time, ttl time.Duration) (t Token, secret []byte, err error) {
	if ttl < time.Second || ttl > MaxTokenLife {
		return Token{}, nil, cluster.Invalid("ttl", "must be from 1s to "+MaxTokenLife.String())
	}
	secret = make([]byte, secretBytes)
	if _, err := rand.Read(secret); err != nil {
		return Token{}, nil, fmt.Errorf("make join token: %w", err)
	}
	now = now.UTC()
	t = Token{ID: strings.ToLower(rand.Text()[:tokenIDChars]), CreatedAt: now, ExpiresAt: now.Add(ttl)}
	err = a.changeTokens(func(all []storedToken) ([]storedToken, error) {
		all = slices.DeleteFunc(all, func(s storedToken) bool { return now.Sub(s.ExpiresAt) > tokenMemory })
		if len(all) >= mostTokens {
			return nil, cluster.Errorf(cluster.CodeConflict, "there are %d join tokens already", len(all)).
				WithHint("remove some: `mlxctl token list`, `mlxctl token rm ID`")
		}
		return append(all, storedToken{t, TokenMAC(t.ID, secret)}), nil
	})
	return t, secret, err
}

// Tokens lists all tokens that are remembered, the newest last.
func (a *Authority) Tokens() ([]Token, error) {
	all, err := a.readTokens()
	if err != nil {
		return nil, err
	}
	out := make([]Token, 0, len(all))
	for _, s := range all {
		out = append(out, s.Token)
	}
	return out, nil
}

// TokenKey returns a token and the TokenMAC of its secret; ok is false where there is no such token.
func (a *Authority) TokenKey(id string) (t Token, mac []byte, ok bool, err error) {
	all, err := a.readTokens()
	if err != nil {
		return Token{}, nil, false, err
	}
	i := slices.IndexFunc(all, func(s storedToken) bool { return s.ID == id })
	if i < 0 {
		return Token{}, nil, false, nil
	}
	return all[i].Token, all[i].MAC, true, nil
}

// UseToken uses up a token for a node and its key. It is written down before it returns. Who used it may use it again
// until it expires, with the same key; for anybody else, and when it has expired or is unknown, the error has
// CodeUnauthorized.
func (a *Authority) UseToken(id string, node cluster.NodeID, key string, now time.Time) error {
	return a.changeTokens(func(all []storedToken) ([]storedToken, error) {
		i := slices.IndexFunc(all, func(s storedToken) bool { return s.ID == id })
		if i < 0 {
			return nil, cluster.Errorf(cluster.CodeUnauthorized, "there is no join token %s", id).WithHint("%s", newTokenHint)
		}
		t := &all[i]
		switch {
		case t.IsExpired(now):
			return nil, cluster.Errorf(cluster.CodeUnauthorized, "join token %s has expired", id).WithHint("%s", newTokenHint)
		case t.Used != nil && (t.Used.Key != key || t.Used.Node != node):
			return nil, cluster.Errorf(cluster.CodeUnauthorized, "join token %s was used by another node", id).WithHint("%s", newTokenHint)
		case t.Used == nil:
			t.Used = &TokenUse{Node: node, Key: key, At: now.UTC()}
		}
		return all, nil
	})
}

const newTokenHint = "`mlxctl token create` on the controller's Mac makes another"

// RemoveToken has a token be good for nobody. The error has CodeInvalid when there is no such token.
func (a *Authority) RemoveToken(id string) error {
	return a.changeTokens(func(all []storedToken) ([]storedToken, error) {
		left := slices.DeleteFunc(slices.Clone(all), func(s storedToken) bool { return s.ID == id })
		if len(left) == len(all) {
			return nil, cluster.Errorf(cluster.CodeInvalid, "there is no join token %s", id).WithHint("`mlxctl token list` lists them")
		}
		return left, nil
	})
}

func (a *Authority) readTokens() ([]storedToken, error) {
	path := filepath.Join(a.dir, fileTokens)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read join tokens: %w", err)
	}
	var all []storedToken
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, cluster.Errorf(cluster.CodeConflict, "the join tokens in %s are damaged: %v", path, err).
			WithHint("remove the file and make new tokens: `mlxctl token create`")
	}
	return all, nil
}

// changeTokens replaces the tokens while nobody else does.
func (a *Authority) changeTokens(edit func([]storedToken) ([]storedToken, error)) error {
	release, err := lock(a.dir)
	if err != nil {
		return err
	}
	defer release()
	all, err := a.readTokens()
	if err != nil {
		return err
	}
	if all, err = edit(all); err != nil {
		return err
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("encode join tokens: %w", err)
	}
	return replace(a.dir, fileTokens, append(data, '\n'))
}
