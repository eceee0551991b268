package trust

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/jwt/v2"
)

// signedBy is who signed a new agent, according to a.
func signedBy(t *testing.T, sign func(pub string) (string, error)) string {
	t.Helper()
	pub, _, err := NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := sign(pub)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := jwt.DecodeUserClaims(text)
	if err != nil {
		t.Fatal(err)
	}
	return claims.Issuer
}

func agentSigner(t *testing.T, a *Authority) string {
	t.Helper()
	return signedBy(t, func(pub string) (string, error) { return a.SignAgent(pub, "n1") })
}

func believed(t *testing.T, a *Authority) jwt.SigningKeys {
	t.Helper()
	pub, text, err := a.Reload()
	if err != nil {
		t.Fatal(err)
	}
	if a.Accounts()[pub] != text {
		t.Error("Accounts is not what Reload gave")
	}
	claims, err := jwt.DecodeAccountClaims(text)
	if err != nil {
		t.Fatal(err)
	}
	return claims.SigningKeys
}

func TestSigningKeyIsReplacedStepByStep(t *testing.T) {
	t.Parallel()
	a := authority(t)
	other, err := Open(a.dir) // another process, that started before
	if err != nil {
		t.Fatal(err)
	}
	old := agentSigner(t, a)
	probe, err := a.AddSigner()
	if err != nil {
		t.Fatal(err)
	}
	next := signedBy(t, probe)
	if next == old || !believed(t, other).Contains(old) || !believed(t, other).Contains(next) {
		t.Errorf("added %s to %s: believed are %v", next, old, believed(t, other))
	}
	if got := agentSigner(t, other); got != old {
		t.Errorf("signed by %s before the new key is in use", got)
	}
	if probe, err = other.AddSigner(); err != nil || signedBy(t, probe) != next { // killed, and begun again
		t.Errorf("a second AddSigner has another key, %v", err)
	}
	for range 2 {
		if err := a.UseSigner(); err != nil {
			t.Fatal(err)
		}
	}
	if got := agentSigner(t, other); got != next {
		t.Errorf("signed by %s, want the new key", got)
	}
	if probe, err = other.AddSigner(); err != nil || signedBy(t, probe) != next { // killed, and begun again
		t.Errorf("AddSigner in the middle of a replacement has another key, %v", err)
	}
	for range 2 {
		if err := other.RetireSigners(); err != nil {
			t.Fatal(err)
		}
	}
	if keys := believed(t, a); keys.Contains(old) || !keys.Contains(next) || len(keys) != 1 {
		t.Errorf("believed in the end are %v", keys)
	}
	if probe, err = a.AddSigner(); err != nil || signedBy(t, probe) == next {
		t.Errorf("the next replacement has the same key, %v", err)
	}
}

func TestNewSigningKeyKeepsRevocations(t *testing.T) {
	t.Parallel()
	a := authority(t)
	pub, _, err := NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Revoke(pub); err != nil {
		t.Fatal(err)
	}
	if _, err := a.AddSigner(); err != nil {
		t.Fatal(err)
	}
	if err := a.UseSigner(); err != nil {
		t.Fatal(err)
	}
	if err := a.RetireSigners(); err != nil {
		t.Fatal(err)
	}
	_, text, err := a.Reload()
	if err != nil {
		t.Fatal(err)
	}
	claims, err := jwt.DecodeAccountClaims(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := claims.Revocations[pub]; !ok {
		t.Error("the revocation is gone")
	}
}

func TestReloadKeepsWhatWasThereWhereTheFileIsDamaged(t *testing.T) {
	t.Parallel()
	a, other := authority(t), authority(t)
	_, before, err := a.Reload()
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := other.Reload()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "a.b.c", foreign} {
		if err := os.WriteFile(filepath.Join(a.dir, fileAccount), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Reload(); err == nil {
			t.Errorf("took %.20q", text)
		}
		if a.Accounts()[a.accountPub] != before {
			t.Error("the account changed")
		}
	}
}
