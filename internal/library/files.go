package library

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// file is one file of a model, as the folder shows it.
type file struct {
	name string
	size int64
	time int64 // of the last change, in nanoseconds
	// blob is the sha256 of the content, where the cache's layout names it; empty elsewhere.
	blob string
	// isGone says that the name leads nowhere: its blob was removed, or never came.
	isGone bool
}

// fileSet is what a folder has of the files that decide answers, ordered by name.
type fileSet []file

// decides says whether a file changes what a loaded model answers: weights, configuration, tokenizer, template, code.
// An index of weights does not: mlx-lm loads all files that are there.
func decides(name string) bool {
	switch path.Ext(name) {
	case ".json":
		return !strings.HasSuffix(name, ".index.json")
	case ".safetensors":
		return isWeights(name)
	case ".jinja", ".py", ".tiktoken":
		return true
	}
	return name == "tokenizer.model" || name == "tiktoken.model" || name == "merges.txt" || name == "vocab.txt"
}

// isWeights says whether mlx-lm loads a file as weights.
func isWeights(name string) bool {
	return strings.HasPrefix(name, "model") && strings.HasSuffix(name, ".safetensors")
}

const indexName = "model.safetensors.index.json"

var blobName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// scan looks at the files of a folder without reading them.
func scan(dir string) (fileSet, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, badModel("%s cannot be read: %s", dir, reason(err))
	}
	var files fileSet
	for _, e := range entries {
		if !decides(e.Name()) && e.Name() != indexName {
			continue
		}
		f := file{name: e.Name()}
		info, err := os.Stat(filepath.Join(dir, f.name))
		switch {
		case errors.Is(err, os.ErrNotExist):
			f.isGone = true
		case err != nil:
			return nil, badModel("%s cannot be read: %s", f.name, reason(err))
		case !info.Mode().IsRegular():
			return nil, badModel("%s is not a file", f.name)
		default:
			f.size, f.time = info.Size(), info.ModTime().UnixNano()
			f.blob = blobOf(dir, e)
		}
		files = append(files, f)
	}
	return files, nil
}

// blobOf is the sha256 that the name of a blob gives; only large files have blobs with such names.
func blobOf(dir string, e os.DirEntry) string {
	if e.Type()&os.ModeSymlink == 0 {
		return ""
	}
	target, err := os.Readlink(filepath.Join(dir, e.Name()))
	if err != nil || path.Base(path.Dir(filepath.ToSlash(target))) != "blobs" {
		return ""
	}
	if name := path.Base(filepath.ToSlash(target)); blobName.MatchString(name) {
		return name
	}
	return ""
}

// stamp changes when a file does.
func (s fileSet) stamp() string {
	var b strings.Builder
	for _, f := range s {
		fmt.Fprintf(&b, "%q %d %d %s %t\n", f.name, f.size, f.time, f.blob, f.isGone)
	}
	return b.String()
}

func (s fileSet) find(name string) (file, bool) {
	for _, f := range s {
		if f.name == name {
			return f, true
		}
	}
	return file{}, false
}

// has says whether there is a file of that name with something behind it.
func (s fileSet) has(name string) bool {
	f, ok := s.find(name)
	return ok && !f.isGone
}

// read returns a file that must be there and be no longer than most.
func (s fileSet) read(dir, name string, most int64) ([]byte, error) {
	f, ok := s.find(name)
	switch {
	case !ok:
		return nil, badModel("it has no %s", name)
	case f.isGone:
		return nil, badModel("%s is missing: the link leads nowhere", name)
	case f.size > most:
		return nil, badModel("%s is %d bytes long, more than the %d that can be right", name, f.size, most)
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, badModel("%s cannot be read: %s", name, reason(err))
	}
	return data, nil
}

// checkTokenizer wants one of the files that tokenizers come in.
func (s fileSet) checkTokenizer(dir string) error {
	for _, f := range s {
		isOne := f.name == "tokenizer.json" || f.name == "tokenizer.model" || f.name == "vocab.json" ||
			f.name == "vocab.txt" || f.name == "tiktoken.model" || path.Ext(f.name) == ".tiktoken"
		if isOne && !f.isGone {
			return nil
		}
	}
	return badModel("there is no tokenizer in %s (tokenizer.json or tokenizer.model)", dir)
}
