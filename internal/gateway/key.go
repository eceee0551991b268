package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// authorize compares the key that a request brings, in a time that tells nothing about the right ones.
func (g *Gateway) authorize(r *http.Request) error {
	keys, err := g.o.APIKeys()
	if err != nil {
		g.o.Log.Error("could not read the API key", "err", err)
		return cluster.Errorf(cluster.CodeInternal, "the API key of the cluster cannot be read")
	}
	if len(keys) == 0 || slices.Contains(keys, "") {
		return cluster.Errorf(cluster.CodeInternal, "the cluster has no API key")
	}
	got, err := bearer(r.Header.Values("Authorization"))
	if err != nil {
		return err
	}
	a, right := sha256.Sum256([]byte(got)), 0
	for _, want := range keys {
		b := sha256.Sum256([]byte(want))
		right |= subtle.ConstantTimeCompare(a[:], b[:])
	}
	if right != 1 {
		return cluster.Errorf(cluster.CodeUnauthorized, "the API key is wrong").WithHint("`mlxctl env` prints the right one")
	}
	return nil
}

func bearer(values []string) (string, error) {
	if len(values) == 0 {
		return "", cluster.Errorf(cluster.CodeUnauthorized, "no API key was sent").
			WithHint("send the header Authorization: Bearer KEY; `mlxctl env` prints the key")
	}
	scheme, key, _ := strings.Cut(values[0], " ")
	key = strings.TrimSpace(key)
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || key == "" {
		return "", cluster.Errorf(cluster.CodeUnauthorized, "the Authorization header is not of the form Bearer KEY")
	}
	return key, nil
}
