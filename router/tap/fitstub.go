package tap

type fitStub struct{}

func (fitStub) TooBig(dst, frame []byte, mtu int) (int, bool) { return 0, false }
func (fitStub) ClampMSS(frame []byte, mss4, mss6 int) bool    { return false }

var fit fitStub
