// Package profiled runs nodes of a bench's domain in a way that profiles can be taken
// of them: as everybody runs them, beside net/http/pprof on a port of the loopback
// device. Whoever can use that port is trusted.
package profiled

import (
	"context"
	"fmt"
	"net/http"
	_ "net/http/pprof" // what Serve serves
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/keystead/keystead/node"
)

// Serve serves net/http/pprof on a port of 127.0.0.1, in the background.
func Serve(port int) {
	go func() { fmt.Fprintln(os.Stderr, http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", port), nil)) }()
}

// Node is a node of that configuration, until SIGTERM.
func Node(config string, port int) error {
	Serve(port)
	cfg, err := node.ReadConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := node.Start(ctx, cfg, node.Options{Log: cfg.Log.Logger(os.Stderr)})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-n.Done():
	}
	return n.Close()
}

// Command returns how a node is run: as everybody runs it, or if port is not zero by this
// program, which is told by its flags -profiled and -pprof, on one of the three ports
// after it.
func Command(program, config string, port int) *exec.Cmd {
	if port == 0 {
		return exec.Command(program, "node", "run", "--config", config)
	}
	name := filepath.Base(filepath.Dir(config)) // n1, n2 or n3
	return exec.Command(os.Args[0], "-profiled", config, "-pprof", fmt.Sprint(port+int(name[1]-'0')))
}
