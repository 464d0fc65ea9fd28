package tap

import (
	"log/slog"
	"testing"
	"time"

	"github.com/weftnet/weft/router/kerneltest"
)

func TestKernelPasses(t *testing.T) {
	kerneltest.NeedRoot(t)
	start := time.Now()
	can := test(slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Logf("%+v in %v", can, time.Since(start))
	if !can.tcp {
		t.Error("this kernel passes no super-frames")
	}
}
