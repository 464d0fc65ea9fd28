package attach

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/router/kernel"
)

// Namespace says which network namespace is meant, for as long as the machine
// runs: the kernel gives an inode number to a new namespace as soon as the old
// one is gone, a cookie never (before Linux 5.14 there is none, and it is 0).
type Namespace struct {
	ID     string `json:"id"` // "dev:inode"
	Cookie uint64 `json:"cookie,omitempty"`
}

// IsZero reports whether ns is unset.
func (ns Namespace) IsZero() bool { return ns == Namespace{} }

// String returns a form that is unique among all namespaces.
func (ns Namespace) String() string { return fmt.Sprintf("%s:%d", ns.ID, ns.Cookie) }

const (
	endPrefix = "wv"
	endDigits = 12 // with the prefix 14 of the 15 characters that a name may have
)

// HostEnd returns the name of the host's end of the veth of ns, the same at
// every call, so that it can be found without asking inside.
func (ns Namespace) HostEnd() string {
	sum := sha256.Sum256([]byte("weft veth " + ns.String()))
	return endPrefix + hex.EncodeToString(sum[:endDigits/2])
}

// isHostEnd recognises what HostEnd makes and nothing that people would type.
func isHostEnd(name string) bool {
	if len(name) != len(endPrefix)+endDigits || name[:len(endPrefix)] != endPrefix {
		return false
	}
	for _, c := range []byte(name[len(endPrefix):]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// readCookie asks the kernel for the namespace's cookie. A socket belongs to
// the namespace in which it was made.
func readCookie(g Guest) (cookie uint64, err error) {
	err = g.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("read cookie: socket: %w", err)
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if errors.Is(err, unix.ENOPROTOOPT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read cookie: %w", err)
		}
		return nil
	})
	return cookie, err
}

// NewMAC returns a random locally administered unicast address.
func NewMAC() kernel.MAC {
	var m kernel.MAC
	_, _ = rand.Read(m[:]) // never fails
	m[0] = m[0]&^0x01 | 0x02
	return m
}
