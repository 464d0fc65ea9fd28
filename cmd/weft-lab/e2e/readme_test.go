package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/weftnet/weft/cmd/weft-lab/lab"
)

// readme is the text that a newcomer follows. The guest carries no checkout.
func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// shellLines returns the commands of all ```sh blocks, in order.
func shellLines(text string) (lines []string) {
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1)
	for _, b := range blocks {
		lines = append(lines, strings.Split(strings.TrimSpace(b[1]), "\n")...)
	}
	return lines
}

// The README's own commands work, typed as they stand there: only the token
// and the name of the first host are filled in, as they say.
func TestReadmeCommands(t *testing.T) {
	parallel(t)
	skipHere(t)
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Fatal("this test needs docker.io:", err)
	}
	c := newCluster(t, 3)
	first := c.nodes[0]
	if err := first.StartDocker(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := first.Docker(t.Context(), "tag", lab.DockerImage, "nginx"); r.Err != nil {
		t.Fatal(r.Err)
	}
	if _, err := first.DockerRun(t.Context(), "--name", "web"); err != nil {
		t.Fatal(err)
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root = strings.TrimSuffix(root, "/cmd/weft-lab/e2e")
	var token string
	var ran int
	for _, line := range shellLines(readme(t)) {
		on := c.nodes[:1]
		switch {
		case strings.HasPrefix(line, "make "):
			target := strings.Fields(line)[1]
			if out, err := exec.Command("make", "-C", root, "-n", target).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			continue
		case strings.Contains(line, "TOKEN"):
			on = c.nodes[1:]
			line = strings.NewReplacer("TOKEN", token, " host1", " "+first.Addr().String()).Replace(line)
		case strings.HasPrefix(line, "docker run"):
			// The stand-in image has nothing to serve: it sleeps under another name.
			line = strings.Replace(line, "--name web nginx", "--name other nginx sleep 1000", 1)
		}
		for _, n := range on {
			r := n.Run(t.Context(), "sh", "-c", "cd "+root+" && "+line)
			if r.Err != nil {
				t.Errorf("%s: %v\n%s%s", line, r.Err, r.Stdout, r.Stderr)
			}
			if strings.HasSuffix(line, "launch") {
				if token = regexp.MustCompile(`weft1\.[A-Za-z0-9_-]+`).FindString(r.Stderr); token == "" {
					t.Fatalf("%s does not say how other hosts join:\n%s", line, r.Stderr)
				}
			}
		}
		if len(on) > 1 {
			c.waitMesh()
		}
		ran++
	}
	if ran < 6 {
		t.Errorf("only %d commands were found in the README", ran)
	}
	c.waitMesh()
}
