package trust

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func token(t *testing.T, a *Authority, now time.Time, ttl time.Duration) (Token, []byte) {
	t.Helper()
	k, secret, err := a.CreateToken(now, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return k, secret
}

func TestTokenIsForOneNode(t *testing.T) {
	t.Parallel()
	a := authority(t)
	now := time.Now()
	k, secret := token(t, a, now, time.Minute)
	restarted, err := Open(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.UseToken(k.ID, "n1", "U1", now); err != nil {
		t.Fatal(err)
	}
	for _, by := range []*Authority{a, restarted} {
		if err := by.UseToken(k.ID, "n1", "U1", now.Add(59*time.Second)); err != nil {
			t.Errorf("the same node again: %v", err)
		}
		for what, err := range map[string]error{
			"another key":  by.UseToken(k.ID, "n1", "U2", now),
			"another node": by.UseToken(k.ID, "n2", "U1", now),
			"expired":      by.UseToken(k.ID, "n1", "U1", now.Add(time.Minute)),
			"unknown":      by.UseToken("nothing", "n1", "U1", now),
		} {
			if cluster.CodeOf(err) != cluster.CodeUnauthorized {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	_, mac, known, err := restarted.TokenKey(k.ID)
	if err != nil || !known || !bytes.Equal(mac, TokenMAC(k.ID, secret)) {
		t.Errorf("key of the token: %v, %v", known, err)
	}
	for name, data := range contents(t, a.dir) {
		if bytes.Contains(data, secret) {
			t.Errorf("%s holds the secret", name)
		}
	}
	info, err := os.Stat(filepath.Join(a.dir, fileTokens))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("tokens are in %v, %v", info, err)
	}
}

func TestTokenIsUsedOnceByManyAtATime(t *testing.T) {
	t.Parallel()
	a := authority(t)
	now := time.Now()
	k, _ := token(t, a, now, time.Minute)
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		other, err := Open(a.dir)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if other.UseToken(k.ID, cluster.NodeID(strings.Repeat("n", i+1)), "U", now) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d nodes used one token", won.Load())
	}
}

func TestTokenLifeAndRemoval(t *testing.T) {
	t.Parallel()
	a := authority(t)
	now := time.Now()
	for _, ttl := range []time.Duration{0, -time.Second, MaxTokenLife + 1} {
		if _, _, err := a.CreateToken(now, ttl); cluster.CodeOf(err) != cluster.CodeInvalid {
			t.Errorf("a token for %s: %v", ttl, err)
		}
	}
	old, _ := token(t, a, now.Add(-3*tokenMemory), time.Hour)
	one, _ := token(t, a, now, MaxTokenLife)
	two, _ := token(t, a, now, time.Second)
	all, err := a.Tokens()
	if err != nil || len(all) != 2 || all[0].ID != one.ID || all[1].ID != two.ID {
		t.Errorf("tokens are %+v, %v, without %s", all, err, old.ID)
	}
	if err := a.RemoveToken(one.ID); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveToken(one.ID); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("removed again: %v", err)
	}
	if err := a.UseToken(one.ID, "n", "U", now); cluster.CodeOf(err) != cluster.CodeUnauthorized {
		t.Errorf("a removed token: %v", err)
	}
}

func TestDamagedTokensAreSaid(t *testing.T) {
	t.Parallel()
	a := authority(t)
	if err := os.WriteFile(filepath.Join(a.dir, fileTokens), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Tokens(); cluster.CodeOf(err) != cluster.CodeConflict || cluster.AsError(err).Hint == "" {
		t.Errorf("got %v", err)
	}
}

func TestFormerAPIKeysEnd(t *testing.T) {
	t.Parallel()
	a := authority(t)
	now := time.Now()
	first, _ := a.APIKey()
	second, err := a.RotateAPIKey(now, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	third, err := a.RotateAPIKey(now.Add(5*time.Minute), 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Duration][]string{
		5 * time.Minute:  {third, first, second},
		10 * time.Minute: {third, second},
		15 * time.Minute: {third},
	} {
		keys, _, err := a.APIKeys(now.Add(at))
		if err != nil || strings.Join(keys, " ") != strings.Join(want, " ") {
			t.Errorf("after %s: %d keys, %v, want %d", at, len(keys), err, len(want))
		}
	}
	if _, until, err := a.APIKeys(now); err != nil || !until.Equal(now.Add(10*time.Minute)) {
		t.Errorf("the first ends at %v, %v", until, err)
	}
	if _, err := a.RotateAPIKey(now, 0); err != nil {
		t.Fatal(err)
	}
	if keys, _, err := a.APIKeys(now); err != nil || len(keys) != 1 {
		t.Errorf("without grace there are %d keys, %v", len(keys), err)
	}
}
