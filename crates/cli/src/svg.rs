//! The topology as a picture: each switch a box, its NICs in a column beside it, joined by cords.

use crate::topology::{Topology, network_line, nic_columns};
use patchcord_api::Nic;
use std::fmt::Write;

/// Sizes, in pixels.
const WIDTH: usize = 900;
const ROW: usize = 44;
const BOX: usize = 32;
const MARGIN: usize = 20;
const SWITCH_WIDTH: usize = 380;
const NIC_LEFT: usize = 500;
const NIC_WIDTH: usize = WIDTH - NIC_LEFT - MARGIN;

/// Draws it. Height grows with what there is.
pub(crate) fn draw(topology: &Topology) -> String {
    let mut body = String::new();
    let mut top = MARGIN;
    for switch in &topology.networks {
        let class = if switch.network.active { "on" } else { "off" };
        let detail = network_line(&switch.network);
        draw_switch(&mut body, &mut top, class, &switch.network.name, &detail, &switch.ports);
    }
    for bridge in &topology.bridges {
        draw_switch(&mut body, &mut top, "host", &bridge.name, "host bridge", &bridge.ports);
    }
    if !topology.unplugged.is_empty() {
        draw_switch(&mut body, &mut top, "off", "plugged into nothing", "", &topology.unplugged);
    }
    let height = top + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>What is plugged where</title>\n\
         <style>rect{{stroke:#333;rx:6}}.on{{fill:#d7ecd9}}.off{{fill:#e4e4e4}}.host{{fill:#d9e6f5}}\
         path{{fill:none;stroke:#333;stroke-width:2}}.loose{{stroke-dasharray:3 5}}.small{{font-size:11px;fill:#555}}\
         </style>\n{body}</svg>\n"
    )
}

fn draw_switch(body: &mut String, top: &mut usize, class: &str, name: &str, detail: &str, ports: &[Nic]) {
    let rows = ports.len().max(1);
    let height = (rows - 1) * ROW + BOX;
    draw_box(body, class, MARGIN, *top, SWITCH_WIDTH, height, name, detail);
    for (index, nic) in ports.iter().enumerate() {
        let y = *top + index * ROW;
        let (from, middle, to) = (MARGIN + SWITCH_WIDTH, y + BOX / 2, NIC_LEFT);
        let plugged = nic.state == "plugged";
        let loose = if plugged { "" } else { " class=\"loose\"" };
        // Writing to a String can't fail.
        let _ = writeln!(body, "<path{loose} d=\"M{from} {middle}H{to}\"/>");
        let [guest, mac, tap, state, portgroup] = nic_columns(nic);
        let portgroup = if portgroup == "-" { String::new() } else { format!("  {portgroup}") };
        let detail = format!("{tap}  {mac}  {state}{portgroup}");
        draw_box(body, if plugged { "on" } else { "off" }, NIC_LEFT, y, NIC_WIDTH, BOX, &guest, &detail);
    }
    *top += rows * ROW;
}

#[allow(clippy::too_many_arguments)] // A box has four measures and two texts.
fn draw_box(body: &mut String, class: &str, x: usize, y: usize, width: usize, height: usize, name: &str, detail: &str) {
    let (text, name_y, detail_y) = (x + 8, y + 14, y + 27);
    let (name, detail) = (escaped(name), escaped(detail));
    // Writing to a String can't fail.
    let _ = writeln!(
        body,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>\
         <text x=\"{text}\" y=\"{name_y}\">{name}</text>\
         <text class=\"small\" x=\"{text}\" y=\"{detail_y}\">{detail}</text>"
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_every_nic_has_its_cord() {
        let svg = draw(&crate::topology::tests::sample());
        assert!(svg.contains("a&lt;b&gt;") && svg.contains("db &amp; co") && !svg.contains("db & co"), "{svg}");
        assert_eq!(svg.matches("<path").count(), 4);
        assert_eq!(svg.matches("class=\"loose\"").count(), 1);
    }
}
