package plan

import (
	"crypto/sha256"
	"encoding/hex"
)

// HardwareHash is what is told of a machine's own number (IOPlatformUUID, /etc/machine-id): enough to tell a cloned disk
// from its original, and nobody learns the number itself. Empty stays empty.
func HardwareHash(hardwareID string) string {
	if hardwareID == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("mlxctl node " + hardwareID))
	return hex.EncodeToString(sum[:])
}
