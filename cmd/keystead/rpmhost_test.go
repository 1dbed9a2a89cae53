package main

import (
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keystead/keystead/internal/rpmrepo"
)

// makeRPMHost makes a machine's tree with an rpm database of three packages, and beside
// it the vendor's certificate, vendor.asc: rpmhost DIR.
func makeRPMHost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: rpmhost DIR")
	}
	dir, err := os.MkdirTemp("", "rpmhost-") // short: gpg's sockets lie in it
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	bench, err := rpmrepo.New(dir)
	ts.Check(err)
	signers := map[string]*rpmrepo.Signer{"unsigned": nil}
	for _, name := range []string{"good", "foreign"} {
		signers[name], err = bench.Signer(name, "rsa2048")
		ts.Check(err)
		defer signers[name].Close()
	}
	var files []string
	for name, version := range map[string]string{"good": "2.0", "foreign": "1.0", "unsigned": "1.0"} {
		file, err := bench.Build(rpmrepo.Package{Name: name, Version: version, Release: "1", Files: map[string]string{"/usr/bin/" + name: "#!/bin/sh\n"}}, signers[name])
		ts.Check(err)
		files = append(files, file)
	}
	ts.Check(bench.Install(ts.MkAbs(args[0]), files...))
	public, err := signers["good"].Public()
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(filepath.Dir(ts.MkAbs(args[0])), "vendor.asc"), public, 0o644))
}
