package enrol

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	prefix = "mlx1."
	// mostTokenBytes bounds the text of a token, mostURLs the addresses in it.
	mostTokenBytes, mostURLs = 4096, 16
	leastSecretBytes         = 16
)

// Token is what the operator hands to whoever sits at the node.
type Token struct {
	// URLs are where the controller answers, https with host and port; any will do.
	URLs []string
	// Pin is the SHA-256 of the public key of the cluster's certificate authority.
	Pin    [sha256.Size]byte
	ID     string
	Secret []byte
}

type tokenText struct {
	URLs   []string `json:"urls"`
	Pin    string   `json:"ca_spki_sha256"`
	ID     string   `json:"id"`
	Secret []byte   `json:"secret"`
}

// String is the token as one word. It is a secret.
func (t Token) String() string {
	data, err := json.Marshal(tokenText{t.URLs, hex.EncodeToString(t.Pin[:]), t.ID, t.Secret})
	if err != nil {
		return "" // texts and bytes can always be encoded
	}
	return prefix + base64.RawURLEncoding.EncodeToString(data)
}

// ParseToken reads what String wrote. The error has CodeInvalid and does not repeat the text.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	bad := func(why string) (Token, error) {
		return Token{}, cluster.Errorf(cluster.CodeInvalid, "this is no join token: %s", why).
			WithHint("copy all of what `mlxctl token create` printed; it is one word and begins with %s", prefix)
	}
	body, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return bad("it does not begin with " + prefix)
	}
	if len(s) > mostTokenBytes {
		return bad("it is too long")
	}
	data, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return bad("a part is missing or changed")
	}
	var text tokenText
	if err := json.Unmarshal(data, &text); err != nil {
		return bad("a part is missing or changed")
	}
	t := Token{URLs: text.URLs, ID: text.ID, Secret: text.Secret}
	pin, err := hex.DecodeString(text.Pin)
	if err != nil || len(pin) != len(t.Pin) || len(t.Secret) < leastSecretBytes || t.ID == "" {
		return bad("a part is missing or changed")
	}
	copy(t.Pin[:], pin)
	if len(t.URLs) == 0 || len(t.URLs) > mostURLs {
		return bad("it has no address, or too many")
	}
	for _, u := range t.URLs {
		parsed, err := url.Parse(u)
		if err != nil || parsed.Scheme != "https" || parsed.Hostname() == "" || parsed.Port() == "" {
			return bad("an address in it is none")
		}
	}
	return t, nil
}
