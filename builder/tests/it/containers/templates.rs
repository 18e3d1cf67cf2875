//! `--format` as people type it for Docker: loops, conditions and pipelines over what containers, images and networks are.

use crate::island::{Island, Who};

#[test]
fn what_people_type_for_docker_works() {
    let Some(island) = Island::new(Who::Root) else { return };
    island.wharf(&["network", "create", "--subnet", "10.77.5.0/24", "net"]).success();
    let flags = [
        "--name",
        "web",
        "--network",
        "net",
        "--ip",
        "10.77.5.7",
        "-p",
        "127.0.0.1:8080:80",
        "--expose",
        "53/udp",
    ];
    let labels = ["-l", "b=two", "-l", "a.x=one", "--stop-timeout", "0"];
    island.wharf(&[&["run", "-d"], &flags[..], &labels, &["bb", "sleep", "1000"]].concat()).success();
    island.wharf(&["create", "--name", "idle", "bb", "true"]).success();

    let check = |arguments: &[&str], format: &str, expected: &str| {
        let outcome = island.wharf(&[arguments, &["--format", format]].concat());
        assert_eq!(outcome.success().text(), format!("{expected}\n"), "{format}");
    };
    let web = ["inspect", "web"];
    check(&web, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.77.5.7");
    check(
        &web,
        "{{range $name, $it := .NetworkSettings.Networks}}{{$name}}={{$it.Gateway}}{{end}}",
        "net=10.77.5.1",
    );
    check(
        &web,
        "{{with .NetworkSettings.Networks.net}}{{.IPAddress}}{{end}}{{with .NetworkSettings.Networks.other}}x{{end}}",
        "10.77.5.7",
    );
    check(&web, "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080");
    check(
        &web,
        "{{range $p, $conf := .NetworkSettings.Ports}}{{$p}}:{{range $conf}} {{.HostIp}}:{{.HostPort}}{{else}} not published{{end}};{{end}}",
        "53/udp: not published;80/tcp: 127.0.0.1:8080;",
    );
    check(&web, "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}}\\n{{end}}", "a.x=one\nb=two\n");
    check(
        &web,
        "{{index .Config.Labels \"a.x\"}}<{{index .Config.Labels \"none\"}}>{{.Config.Labels.none}}",
        "one<><no value>",
    );
    check(
        &web,
        "{{if .State.Running}}yes{{else}}no{{end}} {{if and .State.Running (eq .State.ExitCode 0)}}fine{{end}}",
        "yes fine",
    );
    check(
        &web,
        "{{printf \"%-6s|%s|%.3s\" (slice .Name 1) .State.Status .Id | len}} {{.Name | upper | printf \"%q\"}}",
        "18 \"/WEB\"",
    );
    check(
        &web,
        "{{range $i, $e := .Config.Cmd}}{{if $i}},{{end}}{{$e}}{{end}} {{join .Config.Cmd \" \"}}",
        "sleep,1000 sleep 1000",
    );
    check(&["inspect", "web", "idle"], "{{- /* both */ -}} {{println .Name -}}", "/web\n\n/idle\n");
    check(
        &["image", "inspect", "bb"],
        "{{range .RepoTags}}{{title .}}{{end}} {{len .RootFS.Layers}}",
        "Bb:Latest 1",
    );
    check(
        &["network", "inspect", "net"],
        "{{range .IPAM.Config}}{{.Subnet}}{{end}} {{range .Containers}}{{.Name}}{{end}}",
        "10.77.5.0/24 web",
    );

    let ps = ["ps", "-a"];
    check(&ps, "{{.Names}}:{{if eq .State \"running\"}}up{{else}}{{.State}}{{end}}", "idle:created\nweb:up");
    check(
        &ps,
        "{{range split .Names \"\"}}<{{.}}>{{end}}{{with .Ports}} {{$.Names}} has {{.}}{{end}}",
        "<i><d><l><e>\n<w><e><b> web has 127.0.0.1:8080->80/tcp, 53/udp",
    );
    check(
        &ps,
        "table {{.Names | lower}}\\t{{printf \"%s!\" .State}}",
        "NAMES   STATE!\nidle    created!\nweb     running!",
    );

    let refused = |arguments: &[&str], format: &str, words: &[&str]| {
        island.wharf(&[arguments, &["--format", format]].concat()).fails_with(2, words);
    };
    refused(
        &["ps", "--filter", "name=nobody"],
        "{{if .Name}}{{.Name}}{{end}}",
        &["no field `Name`", "there are Command", "^^^^"],
    );
    refused(&web, "{{range .Mounts}}", &["`{{range}}` has no `{{end}}`", "{{range .Mounts}}\n  |   ^^^^^"]);
    refused(&web, "{{.State.Nope}}", &["no field `Nope`", "there are Dead"]);
    refused(&web, "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}", &["nested more than"]);

    island.wharf(&["rm", "-f", "web", "idle"]).success();
    island.wharf(&["network", "rm", "net"]).success();
    island.check_nothing_left();
}
