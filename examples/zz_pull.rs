use kolosal_server::{
    cli::progress::Lines,
    hub::{Hub, HubConfig, Reference},
};
#[tokio::main]
async fn main() {
    let hub = Hub::new(HubConfig::from_env()).unwrap();
    for name in std::env::args().skip(1) {
        let t = std::time::Instant::now();
        match hub.fetch(&Reference::parse(&name).unwrap(), &Lines::new(std::io::stderr())).await {
            Ok(path) => {
                println!("{name}: {} in {:?}", path.display(), t.elapsed());
                let t = std::time::Instant::now();
                let g = kolosal_server::model::gguf::Gguf::open(&path).unwrap();
                println!(
                    "  open {:?}: {} tensors, {} keys, arch {:?}",
                    t.elapsed(),
                    g.tensors().len(),
                    g.metadata().len(),
                    g.metadata().architecture()
                );
            }
            Err(e) => println!("{name}: {e}"),
        }
    }
    for m in hub.list() {
        println!("{m:?}");
    }
}
