package mlxbridge_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(holderVariable) != "" {
		holdWorker() // until somebody kills it
	}
	goleak.VerifyTestMain(m)
}
