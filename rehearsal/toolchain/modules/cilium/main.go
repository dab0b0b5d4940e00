// What Cilium's agent expects beside itself: the sources of its datapath, which its image carries,
// and the definitions of its custom resources, which its operator would install.
//
//	cilium-files FOLDER    writes FOLDER/bpf and FOLDER/crds
package main

import (
	"embed"
	"fmt"
	"os"
)

//go:embed bpf crds
var files embed.FS

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: cilium-files FOLDER")
		os.Exit(2)
	}
	if err := os.CopyFS(os.Args[1], files); err != nil {
		fmt.Fprintln(os.Stderr, "cilium-files:", err)
		os.Exit(1)
	}
}
