package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// cloneOf makes h3 a copy of h2: state directory and machine id.
func cloneOf(t testing.TB, h2, h3 *node) {
	t.Helper()
	h3.sh("mkdir -p -m 700 /var/lib/weft")
	if r := h3.RunInput(t.Context(), h2.sh("cat /var/lib/weft/identity"), "sh", "-c", "umask 077; cat > /var/lib/weft/identity"); r.Err != nil {
		t.Fatal(r.Err)
	}
	if err := h3.WriteFile("/etc/machine-id", h2.sh("cat /etc/machine-id")); err != nil {
		t.Fatal(err)
	}
}

// Two hosts of one identity that never meet are noticed by the one that both
// come to.
func TestCloneSeenByAnother(t *testing.T) {
	c := newCluster(t, 3)
	h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
	h1.launch()
	h2.launch(h1.Addr().String())
	c.waitMesh(h1, h2)
	if err := c.CutPair(t.Context(), "host2", "host3"); err != nil {
		t.Fatal(err)
	}
	cloneOf(t, h2, h3)
	h3.launch(h1.Addr().String())
	c.wait("host1 says that one identity is used twice", 15*time.Second, func() error {
		if text := h1.log(); !strings.Contains(text, "copied state directory") {
			return fmt.Errorf("its log says:\n%s", text)
		}
		return nil
	})
}
