package trust

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// formatVersion is that of the folder; another one is refused.
const formatVersion = 1

// identity is what the cluster file holds.
type identity struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
}

// Authority is the identity of one cluster, kept in one folder that only its user may read. It is safe for concurrent
// use, also by several processes.
type Authority struct {
	dir      string
	identity identity

	operator, account, system nkeys.KeyPair
	operatorJWT, systemJWT    string
	accountPub, systemPub     string

	ca    *x509.Certificate
	caKey crypto.Signer
	caPEM []byte

	mu         sync.Mutex
	accountJWT string // guarded by mu, as is the folder's
}

// Init makes the identity of a cluster in dir, or opens the one that is there, whatever its name. A process that is
// killed here leaves nothing that Init would not complete or remove the next time.
func Init(dir, name string) (*Authority, error) {
	return initialise(dir, name, time.Now(), func(string) error { return nil })
}

// initialise calls step before each file that it writes.
func initialise(dir, name string, now time.Time, step func(file string) error) (*Authority, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find folder of the identity: %w", err)
	}
	taken, err := hasEntries(dir)
	if err != nil {
		return nil, err
	}
	if !taken {
		files, err := generate(name, now)
		if err != nil {
			return nil, fmt.Errorf("make the cluster's identity: %w", err)
		}
		err = place(dir, func(staging string) error {
			for _, f := range files {
				if err := step(f.name); err != nil {
					return err
				}
				if err := replace(staging, f.name, f.data); err != nil {
					return err
				}
			}
			return step("")
		})
		if err != nil {
			return nil, fmt.Errorf("make the cluster's identity: %w", err)
		}
	}
	return Open(dir)
}

type file struct {
	name string
	data []byte
}

// generate makes everything that an identity consists of.
func generate(name string, now time.Time) ([]file, error) {
	caPEM, caKeyPEM, err := newCA(name, now)
	if err != nil {
		return nil, err
	}
	ca, _, err := parseCA(caPEM, caKeyPEM)
	if err != nil {
		return nil, err
	}
	about, err := json.MarshalIndent(identity{formatVersion, clusterID(ca), name, now.UTC().Truncate(time.Second)}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode identity: %w", err)
	}
	apiKey, err := newAPIKey()
	if err != nil {
		return nil, err
	}
	tokens, err := newTokens(clusterID(ca))
	if err != nil {
		return nil, err
	}
	return append(tokens,
		file{fileCA, caPEM}, file{fileCAKey, caKeyPEM}, file{fileAPIKey, []byte(apiKey + "\n")},
		file{fileCluster, append(about, '\n')}), nil
}

// newTokens makes the operator, its two accounts and the key that signs users.
func newTokens(id string) ([]file, error) {
	operator, err := nkeys.CreateOperator()
	if err != nil {
		return nil, fmt.Errorf("make operator key: %w", err)
	}
	var out []file
	var pubs []string
	for _, k := range []string{fileAccountKey, fileAccountSigner, fileSystemKey} {
		pair, err := nkeys.CreateAccount()
		if err != nil {
			return nil, fmt.Errorf("make account key: %w", err)
		}
		pub, seed, err := halves(pair)
		if err != nil {
			return nil, err
		}
		pubs = append(pubs, pub)
		out = append(out, file{k, seed})
	}
	operatorPub, operatorSeed, err := halves(operator)
	if err != nil {
		return nil, err
	}
	oc := jwt.NewOperatorClaims(operatorPub)
	oc.Name, oc.SystemAccount = id, pubs[2]
	ac := jwt.NewAccountClaims(pubs[0])
	ac.Name = "mlx"
	ac.SigningKeys.Add(pubs[1])
	// Limits of what may be stored later; the server stores nothing while it has no store.
	ac.Limits.DiskStorage, ac.Limits.MemoryStorage = 2<<30, 64<<20
	sc := jwt.NewAccountClaims(pubs[2])
	sc.Name = "system"
	for _, c := range []struct {
		file   string
		claims jwt.Claims
	}{{fileOperator, oc}, {fileAccount, ac}, {fileSystem, sc}} {
		token, err := c.claims.Encode(operator)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", c.file, err)
		}
		out = append(out, file{c.file, []byte(token)})
	}
	return append(out, file{fileOperatorKey, operatorSeed}), nil
}

// halves returns both keys of a pair in their usual text forms.
func halves(k nkeys.KeyPair) (pub string, seed []byte, err error) {
	if pub, err = k.PublicKey(); err != nil {
		return "", nil, fmt.Errorf("read public key: %w", err)
	}
	if seed, err = k.Seed(); err != nil {
		return "", nil, fmt.Errorf("read key: %w", err)
	}
	return pub, seed, nil
}

// Open reads the identity in dir. The error has CodeConflict when there is none, or when it is damaged.
func Open(dir string) (*Authority, error) {
	a, err := read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if taken, _ := hasEntries(dir); !taken {
			return nil, cluster.Errorf(cluster.CodeConflict, "no cluster identity in %s", dir).
				WithHint("`mlxctl up` makes one")
		}
	}
	if err != nil {
		return nil, cluster.Errorf(cluster.CodeConflict, "the cluster identity in %s is damaged: %v", dir, err).
			WithHint("restore the folder from a backup, or remove it and set up the cluster anew")
	}
	return a, nil
}

func read(dir string) (*Authority, error) {
	a := &Authority{dir: dir}
	text := make(map[string][]byte)
	for _, name := range []string{
		fileCluster, fileOperatorKey, fileOperator, fileAccountKey, fileAccountSigner, fileAccount, fileSystemKey, fileSystem,
		fileCA, fileCAKey,
	} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err //nolint:wrapcheck // it names the file, and the caller says what for
		}
		text[name] = data
	}
	if err := json.Unmarshal(text[fileCluster], &a.identity); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileCluster, err)
	}
	if a.identity.Version != formatVersion {
		return nil, fmt.Errorf("format version %d is not %d", a.identity.Version, formatVersion)
	}
	for _, k := range []struct {
		file string
		to   *nkeys.KeyPair
	}{{fileOperatorKey, &a.operator}, {fileAccountKey, &a.account}, {fileSystemKey, &a.system}} {
		pair, err := nkeys.FromSeed(text[k.file])
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", k.file, err)
		}
		*k.to = pair
	}
	_, err := nkeys.FromSeed(text[fileAccountSigner])
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", fileAccountSigner, err)
	}
	if a.accountPub, err = a.account.PublicKey(); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileAccountKey, err)
	}
	if a.systemPub, err = a.system.PublicKey(); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileSystemKey, err)
	}
	a.operatorJWT, a.accountJWT, a.systemJWT = string(text[fileOperator]), string(text[fileAccount]), string(text[fileSystem])
	if _, err := a.claims(a.accountJWT); err != nil {
		return nil, err
	}
	a.caPEM = text[fileCA]
	a.ca, a.caKey, err = parseCA(text[fileCA], text[fileCAKey])
	return a, err
}

// ClusterID names the cluster. It follows from the key of the CA, so that nobody else can prove to be this cluster.
func (a *Authority) ClusterID() string { return a.identity.ID }

// Name is what people call the cluster.
func (a *Authority) Name() string { return a.identity.Name }

// ServerName is the name that the server's certificate is for, whatever the server's address is.
func (a *Authority) ServerName() string { return serverName(a.identity.ID) }

func serverName(id string) string { return "ctl." + id + ".mlxctl" }

// CAPEM is the certificate that clients check the server's against.
func (a *Authority) CAPEM() []byte { return append([]byte(nil), a.caPEM...) }

// CAPool is CAPEM, ready for use.
func (a *Authority) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca)
	return pool
}

// OperatorJWT is the root of what the NATS server believes.
func (a *Authority) OperatorJWT() string { return a.operatorJWT }

// SystemAccount is the public key of the account in which the NATS server tells about itself.
func (a *Authority) SystemAccount() string { return a.systemPub }

// Accounts returns the claims of all accounts by public key, revocations included.
func (a *Authority) Accounts() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return map[string]string{a.accountPub: a.accountJWT, a.systemPub: a.systemJWT}
}
