package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

var errSkeleton = errors.New("not here yet")

// Authority is the identity of one cluster.
type Authority struct{}

// Init makes an identity, or opens the one that is there.
func Init(dir, name string) (*Authority, error) { return nil, errSkeleton }

// Open opens an identity.
func Open(dir string) (*Authority, error) { return nil, errSkeleton }

// ClusterID names the cluster.
func (a *Authority) ClusterID() string { return "" }

// Name is what people call the cluster.
func (a *Authority) Name() string { return "" }

// APIKey is the key of the HTTP API.
func (a *Authority) APIKey() (string, error) { return "", errSkeleton }

// RotateAPIKey replaces it.
func (a *Authority) RotateAPIKey() (string, error) { return "", errSkeleton }

// CAPool verifies the server.
func (a *Authority) CAPool() *x509.CertPool { return nil }

// CAPEM is the certificate of the CA.
func (a *Authority) CAPEM() []byte { return nil }

// ServerName is what the server's certificate is for.
func (a *Authority) ServerName() string { return "" }

// ServerTLS issues a certificate for the server.
func (a *Authority) ServerTLS(now time.Time) (*tls.Config, error) { return nil, errSkeleton }

// OperatorJWT is the root of trust of the NATS server.
func (a *Authority) OperatorJWT() string { return "" }

// Accounts are the accounts' claims by public key.
func (a *Authority) Accounts() map[string]string { return nil }

// SystemAccount is the public key of the system account.
func (a *Authority) SystemAccount() string { return "" }

// SystemUser makes a user of the system account.
func (a *Authority) SystemUser() (jwt string, seed []byte, err error) { return "", nil, errSkeleton }

// SignAgent lets a key speak as a node.
func (a *Authority) SignAgent(pub string, node cluster.NodeID) (string, error) { return "", errSkeleton }

// SignClient lets a key use the cluster.
func (a *Authority) SignClient(pub, name string) (string, error) { return "", errSkeleton }

// SignController lets a key be the controller.
func (a *Authority) SignController(pub string) (string, error) { return "", errSkeleton }

// Revoke throws a key out.
func (a *Authority) Revoke(pub string) (accountPub, accountJWT string, err error) {
	return "", "", errSkeleton
}

// NewUserKey makes a user's key.
func NewUserKey() (pub string, seed []byte, err error) { return "", nil, errSkeleton }
