package trust

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mlxctl/mlxctl/internal/durable"
)

// Files of an identity, all in one folder. What is not named as replaceable never changes after Init.
const (
	fileCluster       = "cluster.json"
	fileOperatorKey   = "operator.nk"
	fileOperator      = "operator.jwt"
	fileAccountKey    = "account.nk"
	fileAccountSigner = "account-signing.nk"      // replaced by UseSigner
	fileAccountNext   = "account-signing-next.nk" // between AddSigner and UseSigner
	fileAccount       = "account.jwt"             // replaced by Revoke and by new signing keys: it holds both
	fileSystemKey     = "system.nk"
	fileSystem        = "system.jwt"
	fileCAKey         = "ca-key.pem"
	fileCA            = "ca.pem"
	fileAPIKey        = "api.key"         // replaced by RotateAPIKey
	fileFormerAPIKeys = "api-former.json" // made by RotateAPIKey
	fileTokens        = "tokens.json"     // made by CreateToken
)

const (
	modeDir  = 0o700
	modeFile = 0o600
)

// stagingInfix is between an identity's folder name and a random part while it is being made beside its place.
const stagingInfix = ".new-"

// lock waits for the lock of a folder, which ends with the process at the latest. Nothing ends the waiting: who holds it is
// done as soon as a few files are on the disk.
func lock(dir string) (release func(), err error) {
	l, err := durable.Lock(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}

// place makes the folder dir with what fill writes, whole or not at all: it is filled beside its place and renamed.
// What killed processes left beside it is removed. It does nothing where dir is there and has something in it.
func place(dir string, fill func(staging string) error) error {
	parent := filepath.Dir(dir)
	if err := durable.MkdirAll(parent, modeDir); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	release, err := lock(parent)
	if err != nil {
		return err
	}
	defer release()
	if err := sweep(dir); err != nil {
		return err
	}
	if taken, err := hasEntries(dir); err != nil || taken {
		return err
	}
	staging, err := os.MkdirTemp(parent, filepath.Base(dir)+stagingInfix) // 0700
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := fill(staging); err != nil {
		_ = os.RemoveAll(staging) // the first error says more
		return err
	}
	if err := durable.Rename(staging, dir); err != nil {
		return fmt.Errorf("put identity in place: %w", err)
	}
	return nil
}

// sweep removes what killed processes left while they made dir. The parent is locked.
func sweep(dir string) error {
	stale, err := filepath.Glob(escapeGlob(dir) + stagingInfix + "*")
	if err != nil {
		return fmt.Errorf("find unfinished identity: %w", err)
	}
	for _, s := range stale {
		if err := os.RemoveAll(s); err != nil {
			return fmt.Errorf("remove unfinished identity: %w", err)
		}
	}
	return nil
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func hasEntries(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read folder: %w", err)
	}
	return len(entries) > 0, nil
}

// replace changes a file as a whole, on the disk too: a reader, or a process that is killed, leaves the old one or the new one.
func replace(dir, name string, data []byte) error {
	return durable.Write(filepath.Join(dir, name), data, modeFile)
}
