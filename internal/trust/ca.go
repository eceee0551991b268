package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"time"
)

const (
	day       = 24 * time.Hour
	caLife    = 3653 * day // 10 years
	certLife  = 365 * day
	certRenew = 30 * day // before its end
	// clockSkew is how far behind a clock may be that checks a certificate made now.
	clockSkew = 30 * day
)

// newCA makes a certificate authority and returns its certificate and key as PEM.
func newCA(name string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "mlxctl " + name},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// parseCA reads what newCA made.
func parseCA(certPEM, keyPEM []byte) (*x509.Certificate, crypto.Signer, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil, nil, errors.New("no certificate in " + fileCA)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("read certificate: %w", err)
	}
	if block, _ = pem.Decode(keyPEM); block == nil {
		return nil, nil, errors.New("no key in " + fileCAKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("read key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("the key is not that of the certificate")
	}
	return cert, key, nil
}

// clusterID is the name of a cluster that nobody else can prove to have: it follows from the key of its CA.
func clusterID(ca *x509.Certificate) string {
	return ClusterOfPin(sha256.Sum256(ca.RawSubjectPublicKeyInfo))
}

// Pin is the SHA-256 of the CA's public key: whoever knows it can tell this cluster from any other.
func (a *Authority) Pin() [sha256.Size]byte { return sha256.Sum256(a.ca.RawSubjectPublicKeyInfo) }

// ServerNameOfPin is the ServerName of the cluster whose CA has a Pin.
func ServerNameOfPin(sum [sha256.Size]byte) string { return serverName(ClusterOfPin(sum)) }

// ClusterOfPin is the ClusterID of the cluster whose CA has a Pin.
func ClusterOfPin(sum [sha256.Size]byte) string {
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}

// ServerTLS returns what the server needs to speak TLS 1.3 as ServerName. Certificates are made in memory, the first
// one now and another before it ends, and are valid from 30 days before now for clients whose clocks are late.
func (a *Authority) ServerTLS(now time.Time) (*tls.Config, error) {
	started := time.Now()
	s := &serverCert{issue: func(at time.Time) (*tls.Certificate, error) { return a.issue(at) }}
	if _, err := s.at(now); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.at(now.Add(time.Since(started)))
		},
	}, nil
}

// serverCert holds a certificate that is renewed when its time comes.
type serverCert struct {
	issue func(at time.Time) (*tls.Certificate, error)

	mu   sync.Mutex
	cert *tls.Certificate // guarded by mu
}

func (s *serverCert) at(now time.Time) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert != nil && now.Before(s.cert.Leaf.NotAfter.Add(-certRenew)) {
		return s.cert, nil
	}
	cert, err := s.issue(now)
	if err != nil {
		return nil, err
	}
	s.cert = cert
	return cert, nil
}

// issue makes a certificate for the server.
func (a *Authority) issue(now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: a.ServerName()}, DNSNames: []string{a.ServerName()},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(certLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.ca, key.Public(), a.caKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	// The CA goes along for those who know its Pin alone.
	return &tls.Certificate{Certificate: [][]byte{der, a.ca.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return serial, nil
}
