package fdb

import "testing"

// Whoever begins to hear a host while its containers are answering misses some of
// them until they are asked again: it is flooded until then.
func TestBegunAmongAnswers(t *testing.T) {
	c := newClock()
	table := New(Options{Now: c.now})
	table.Set(remotes(2, 3), nil)
	answerAll(table, 3)
	// The member of g4 answered a moment before; another one does it now.
	c.seconds(5)
	table.Sweep()
	table.Snoop(report(mac(9), "fe80::9", rec{kind: recordExclude, group: "ff02::fb"}), overlay(2))
	for range 24 {
		c.seconds(5)
		table.Sweep()
		goes(t, table, data(g4), 0)
	}
	// They are asked again, and all of them are heard.
	answerAll(table, 2, 3)
	table.Snoop(report(mac(1), "10.32.0.1", rec{kind: recordExclude, group: g4}), overlay(2))
	c.seconds(settling + 1)
	table.Sweep()
	goes(t, table, data(g4), 2)
}
