package library

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
)

const (
	// wholeBytes is up to which length a file is read whole for the digest.
	wholeBytes = 16 << 20
	// Of longer ones the header is read, and this many pieces spread evenly.
	samples     = 256
	sampleBytes = 4 << 10
)

// digestOf identifies the content of a model: sha256 over the name, the length and the content of each file that
// decides answers. Times, paths, owners and other files do not count, so it is the same on all machines with the same
// content in the same layout.
//
// The content of a file that the Hugging Face cache keeps under its sha256 is that name: nothing is read. Other files
// are read whole up to 16 MiB. Of longer ones the first 8 MiB, which hold the header of safetensors, and 256 pieces of
// 4 KiB are read: training, merging and quantizing change nearly every piece, while a few bytes changed by hand may be
// overlooked. So a model in the cache and a plain copy of it have different digests, as they have different names.
func digestOf(ctx context.Context, dir string, files fileSet) (string, error) {
	sum := sha256.New()
	for _, f := range files {
		if f.name == indexName {
			continue
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
		content, err := contentOf(dir, f)
		if err != nil {
			return "", badModel("%s cannot be read: %s", f.name, reason(err))
		}
		sum.Write(fmt.Appendf(nil, "%q %d %s\n", f.name, f.size, content))
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// contentOf stands for the content of one file; how it was made is part of it.
func contentOf(dir string, f file) (string, error) {
	if f.isGone {
		return "gone", nil
	}
	if f.blob != "" {
		return "sha256:" + f.blob, nil
	}
	r, err := os.Open(filepath.Join(dir, f.name))
	if err != nil {
		return "", err
	}
	defer r.Close() //nolint:errcheck // only read
	sum := sha256.New()
	if f.size <= wholeBytes {
		_, err = io.Copy(sum, io.LimitReader(r, wholeBytes))
		return "sha256:" + hex.EncodeToString(sum.Sum(nil)), err
	}
	err = sample(sum, r, f.size)
	return "sampled:" + hex.EncodeToString(sum.Sum(nil)), err
}

// sample hashes the begin of a long file and pieces of the rest.
func sample(sum hash.Hash, r io.ReaderAt, size int64) error {
	const head = wholeBytes / 2
	if _, err := io.Copy(sum, io.NewSectionReader(r, 0, head)); err != nil {
		return err
	}
	step := (size - head - sampleBytes) / (samples - 1)
	for i := range int64(samples) {
		if _, err := io.Copy(sum, io.NewSectionReader(r, head+i*step, sampleBytes)); err != nil {
			return err
		}
	}
	return nil
}
