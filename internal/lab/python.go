package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// python is how hosts come by an interpreter and, unless they are blank, by an environment.
type python struct {
	made  [][2]string // environments: folder of this machine, folder there
	links [][2]string // to them: target, link there; ~ is the user's home
	binds [][2]string // folders of interpreters
	wraps [][2]string // program, what is called in its place
}

// caches lists where a host's mlxctl looks for environments: a node's, and an operator's.
func caches() []string { return []string{"~/.mlxctl/cache", "~/.cache/mlxctl"} }

func (l *Lab) python(ctx context.Context) (python, error) {
	var p python
	bases := []string{}
	if l.options.Cache != "" {
		stamps, err := filepath.Glob(filepath.Join(l.options.Cache, "python", "*", "mlxctl.json"))
		if err != nil || len(stamps) == 0 {
			return p, fmt.Errorf("no Python environment in %s", l.options.Cache)
		}
		for _, stamp := range stamps {
			base, err := baseOf(stamp)
			if err != nil {
				return p, err
			}
			bases = append(bases, base)
			dir := filepath.Dir(stamp)
			key := filepath.Base(dir)
			p.made = append(p.made, [2]string{dir, "/opt/python/" + key})
			for _, cache := range caches() {
				p.links = append(p.links, [2]string{"/opt/python/" + key, cache + "/python/" + key})
			}
		}
	}
	if l.options.Python != "" {
		bases = append(bases, l.options.Python)
	} else if found := newest(ctx); found != "" {
		bases = append(bases, found)
	}
	seen := map[string]bool{}
	for _, base := range bases {
		if err := p.add(ctx, base, seen); err != nil {
			return p, err
		}
	}
	return p, nil
}

func baseOf(stamp string) (string, error) {
	var s struct {
		Base string `json:"base"`
	}
	data, err := os.ReadFile(stamp)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(data, &s); err != nil || s.Base == "" {
		return "", errors.Join(fmt.Errorf("%s names no interpreter", stamp), err)
	}
	return s.Base, nil
}

// newest finds the newest interpreter of this machine that mlx-lm runs on and that can make environments, or "".
func newest(ctx context.Context) string {
	for _, name := range []string{"python3.13", "python3.12", "python3.11"} {
		for dir := range strings.SplitSeq(os.Getenv("PATH"), ":") {
			file := filepath.Join(dir, name)
			if _, err := os.Stat(file); err != nil {
				continue
			}
			if _, err := run(ctx, userEnv(), "", file, "-I", "-c", "import venv, ensurepip"); err == nil { // it may be a stub
				return file
			}
		}
	}
	return ""
}

func userEnv() []string { return []string{"HOME=" + os.Getenv("HOME"), "PATH=" + os.Getenv("PATH")} }

// add has hosts see an interpreter where it is on this machine, and find it on their PATH.
func (p *python) add(ctx context.Context, interpreter string, seen map[string]bool) error {
	ask := `import sys, os; print(sys.base_prefix); print(os.path.realpath(sys.executable)); print("python3.%d" % sys.version_info[1])`
	out, err := run(ctx, userEnv(), "", interpreter, "-I", "-c", ask)
	if err != nil {
		return fmt.Errorf("ask interpreter %s where it lies: %w", interpreter, err)
	}
	lines := strings.Fields(string(out))
	if len(lines) != 3 {
		return fmt.Errorf("interpreter %s says %q", interpreter, out)
	}
	prefix, file, name := lines[0], lines[1], lines[2]
	if prefix == "/usr" || seen[prefix] {
		return nil
	}
	seen[prefix] = true
	p.binds = append(p.binds, [2]string{prefix, prefix})
	if prefix != "/usr/local" {
		p.wraps = append(p.wraps, [2]string{file, "/usr/local/bin/" + name}, [2]string{file, "/usr/local/bin/python3"})
	}
	return nil
}
