package cluster

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
)

// PrefixBlock is how many tokens each digest of a prefix chain adds.
const PrefixBlock = 256

// prefixDigestBytes is the length of a digest of a prefix chain.
const prefixDigestBytes = 8

// PrefixChain returns the digests of the first whole blocks of tokens, at most most of them, as workers compute them
// for what they have cached (docs/worker-protocol.md): each is the beginning of SHA-256, 8 bytes long, over the digest
// before it and the block's token ids as little-endian unsigned 32-bit numbers, in hexadecimal.
func PrefixChain(tokens []int, most int) []string {
	blocks := min(len(tokens)/PrefixBlock, most)
	if blocks <= 0 {
		return nil
	}
	out := make([]string, blocks)
	var digest []byte
	block := make([]byte, 0, prefixDigestBytes+4*PrefixBlock)
	for i := range out {
		block = append(block[:0], digest...)
		for _, token := range tokens[i*PrefixBlock : (i+1)*PrefixBlock] {
			block = binary.LittleEndian.AppendUint32(block, uint32(token)) //nolint:gosec // token ids are 32 bits wide
		}
		sum := sha256.Sum256(block)
		digest = sum[:prefixDigestBytes]
		out[i] = hex.EncodeToString(digest)
	}
	return out
}

// CachedTokens returns how many tokens at the beginning of a request a replica has cached, in whole blocks, given the
// request's PrefixChain. It is a hint: what is known may be up to a second old, and incomplete.
func (r *Replica) CachedTokens(chain []string) int {
	if len(r.Prefixes) == 0 {
		return 0
	}
	known := make(map[string]struct{}, len(r.Prefixes))
	for _, digest := range r.Prefixes {
		known[digest] = struct{}{}
	}
	for i, digest := range slices.Backward(chain) {
		if _, ok := known[digest]; ok {
			return (i + 1) * PrefixBlock
		}
	}
	return 0
}
