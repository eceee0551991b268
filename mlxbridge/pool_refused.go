package mlxbridge

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// mostRefusals is how many folders that cannot be loaded are remembered.
const mostRefusals = 1024

// refusalTTL is how long they are: what could not be read may have been there all the same.
const refusalTTL = 10 * time.Minute

// attempt is what a load tries: a folder, in the state that it is in before.
type attempt struct{ name, dir, stamp string }

// refusal is why a folder could not be loaded, as it was then.
type refusal struct {
	stamp string
	err   error
	at    time.Time
}

// attempt begins with a replica's folder.
func (p *Pool) attempt(r *replica) attempt {
	p.mu.Lock()
	a := attempt{name: r.model.Name, dir: r.dir}
	p.mu.Unlock()
	a.stamp = stampOf(a.dir)
	return a
}

// examine refuses a folder that can never be loaded, before anything is evicted for it.
func (p *Pool) examine(a attempt) error {
	if x, ok := p.o.Launcher.(examiner); ok {
		return x.Examine(a.name, a.dir)
	}
	return nil
}

// refused returns why a model could not be loaded, as long as nothing in its folder has changed since. Its options may
// name other folders: then it is tried again each time.
func (p *Pool) refused(m cluster.Model, dir string) error {
	p.mu.Lock()
	was, ok := p.refusals[refusalKey(m.Name, dir)]
	p.mu.Unlock()
	if !ok || time.Since(was.at) > refusalTTL || was.stamp != stampOf(dir) {
		return nil
	}
	return was.err
}

// refuse remembers why a load failed, if that is the folder's fault.
func (p *Pool) refuse(a attempt, err error) {
	o, code := p.options(a.name), cluster.CodeOf(err)
	if a.stamp == "" || o.Adapter != "" || o.Draft != "" || (code != cluster.CodeBadModel && code != cluster.CodeUnsupported) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.refusals) >= mostRefusals {
		clear(p.refusals)
	}
	p.refusals[refusalKey(a.name, a.dir)] = refusal{a.stamp, err, time.Now()}
}

func refusalKey(name, dir string) string { return name + "\x00" + dir }

// stampOf tells one state of a folder's files from the next; it is empty where there is none.
func stampOf(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for _, entry := range entries {
		info, err := os.Stat(filepath.Join(dir, entry.Name())) // of what a link leads to
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "%q %d %d\n", entry.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}
