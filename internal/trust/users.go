package trust

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// validName is what may stand for one node or client in a subject: a dot or a wildcard there would mean others as well.
var validName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// What stands before a node's id or a client's name in its token.
const (
	nodeLabel   = "node-"
	clientLabel = "client-"
)

// maxOutlive is how long it may be until a revocation is over; more is a clock that was set back.
const maxOutlive = 2 * time.Second

// NewUserKey makes the key of a user. The seed stays where it was made; only the public key is signed.
func NewUserKey() (pub string, seed []byte, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", nil, fmt.Errorf("make user key: %w", err)
	}
	return halves(pair)
}

// SignAgent lets the holder of a key speak as one node, and hear what that node is asked. It does not expire: Revoke
// ends it.
func (a *Authority) SignAgent(pub string, node cluster.NodeID) (string, error) {
	id := string(node)
	if !validName.MatchString(id) {
		return "", cluster.Invalid("node", "must be 1 to 64 letters, digits, - and _")
	}
	return a.signUser(pub, nodeLabel+id, jwt.ConnectionTypeStandard, jwt.Permissions{
		Pub: jwt.Permission{Allow: jwt.StringList{"mlx.hb." + id, "mlx.evt." + id + ".>", "mlx.r." + id + ".>"}},
		Sub: jwt.Permission{Allow: jwt.StringList{"mlx.cmd." + id + ".>", "mlx.all.>"}},
	})
}

// SignClient lets the holder of a key use the cluster: ask the controller, and hear its answers to that client.
func (a *Authority) SignClient(pub, client string) (string, error) {
	if !validName.MatchString(client) {
		return "", cluster.Invalid("name", "must be 1 to 64 letters, digits, - and _")
	}
	return a.signUser(pub, clientLabel+client, jwt.ConnectionTypeStandard, jwt.Permissions{
		Pub: jwt.Permission{Allow: jwt.StringList{"mlx.api.>"}},
		Sub: jwt.Permission{Allow: jwt.StringList{"mlx.c." + client + ".>", "_INBOX_" + client + ".>"}},
	})
}

// NodeOf returns the node and the key that a token of SignAgent is for. The error has CodeUnauthorized when this
// cluster does not believe the token, whether or not the key was revoked.
func (a *Authority) NodeOf(token string) (node cluster.NodeID, key string, err error) {
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return "", "", cluster.Errorf(cluster.CodeUnauthorized, "read token: %v", err)
	}
	account, err := a.claims(a.Accounts()[a.accountPub])
	if err != nil {
		return "", "", err
	}
	id, ok := strings.CutPrefix(claims.Name, nodeLabel)
	if !ok || claims.IssuerAccount != a.accountPub || !account.SigningKeys.Contains(claims.Issuer) {
		return "", "", cluster.Errorf(cluster.CodeUnauthorized, "the token is of no node of this cluster")
	}
	return cluster.NodeID(id), claims.Subject, nil
}

// Verify says whether the holder of a user's key signed data.
func Verify(pub string, data, signature []byte) bool {
	if !nkeys.IsValidPublicUserKey(pub) {
		return false
	}
	key, err := nkeys.FromPublicKey(pub)
	return err == nil && key.Verify(data, signature) == nil
}

// ClientName returns the name that SignClient signed; empty for a token of anything else.
func ClientName(token string) string {
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return ""
	}
	name, ok := strings.CutPrefix(claims.Name, clientLabel)
	if !ok {
		return ""
	}
	return name
}

// SignController lets the holder of a key be the controller: say and hear everything of the cluster.
func (a *Authority) SignController(pub string) (string, error) {
	by, err := a.readSigner(fileAccountSigner)
	if err != nil {
		return "", err
	}
	return a.signController(by, pub)
}

func (a *Authority) signController(by nkeys.KeyPair, pub string) (string, error) {
	all := jwt.Permission{Allow: jwt.StringList{"mlx.>"}}
	own := jwt.Permission{Allow: jwt.StringList{"mlx.>", "_INBOX_ctl.>"}}
	return a.sign(by, a.accountPub, pub, "controller", "", jwt.Permissions{Pub: all, Sub: own})
}

// signUser signs with the newest key, which another process may have replaced since this one started.
func (a *Authority) signUser(pub, label, way string, may jwt.Permissions) (string, error) {
	if err := a.outlive(pub, time.Now()); err != nil {
		return "", err
	}
	by, err := a.readSigner(fileAccountSigner)
	if err != nil {
		return "", err
	}
	return a.sign(by, a.accountPub, pub, label, way, may)
}

// SystemUser makes a user of the system account, for the process that runs the server. It is not stored.
func (a *Authority) SystemUser() (token string, seed []byte, err error) {
	pub, seed, err := NewUserKey()
	if err != nil {
		return "", nil, err
	}
	token, err = a.sign(a.system, a.systemPub, pub, "system", jwt.ConnectionTypeInProcess, jwt.Permissions{
		Sub: jwt.Permission{Allow: jwt.StringList{"$SYS.>"}},
		Pub: jwt.Permission{Deny: jwt.StringList{">"}},
	})
	return token, seed, err
}

// outlive waits until the second is over in which a key was revoked, if it was: revocations and signatures have seconds,
// and what was signed in the same one is worth nothing.
func (a *Authority) outlive(pub string, now time.Time) error {
	_, token, err := a.Reload()
	if err != nil {
		return err
	}
	claims, err := a.claims(token)
	if err != nil {
		return err
	}
	at, revoked := claims.Revocations[pub]
	wait := time.Unix(at+1, 0).Sub(now)
	switch {
	case !revoked || wait <= 0:
		return nil
	case wait > maxOutlive:
		return cluster.Errorf(cluster.CodeConflict, "the key was revoked at %s, which this Mac's clock has not reached", time.Unix(at, 0).UTC().Format(time.RFC3339)).
			WithHint("set the clock right")
	}
	<-time.After(wait)
	return nil
}

// mostSubscriptions is what one connection of a node or a client may subscribe to: a client does for each request that it has
// under way.
const mostSubscriptions = 4096

// sign makes a user of an account. An empty way lets it connect both in process and over the network.
func (a *Authority) sign(by nkeys.KeyPair, account, pub, label, way string, may jwt.Permissions) (string, error) {
	if !nkeys.IsValidPublicUserKey(pub) {
		return "", cluster.Invalid("key", "must be the public key of a user")
	}
	claims := jwt.NewUserClaims(pub)
	claims.Name, claims.Permissions = label, may
	if account != signerOf(by) {
		claims.IssuerAccount = account
	}
	ways := jwt.StringList{jwt.ConnectionTypeStandard, jwt.ConnectionTypeInProcess}
	if way != "" {
		ways = jwt.StringList{way}
	}
	if way == jwt.ConnectionTypeStandard {
		claims.Subs = mostSubscriptions
	}
	claims.AllowedConnectionTypes = ways
	token, err := claims.Encode(by)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", label, err)
	}
	return token, nil
}

func signerOf(k nkeys.KeyPair) string {
	pub, err := k.PublicKey()
	if err != nil {
		return ""
	}
	return pub
}
