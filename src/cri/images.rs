//! The image service.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{Service, error, render, stream, verbose};
use crate::api;
use crate::api::image_service_server::ImageService;
use crate::image::store::Usage;
use crate::image::{Image, PullRequest};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Service {
    type StreamImagesStream = Pin<Box<dyn Stream<Item = Result<api::StreamImagesResponse, Status>> + Send>>;

    async fn list_images(&self, request: Request<api::ListImagesRequest>) -> Answer<api::ListImagesResponse> {
        let images = self.listed_images(request.into_inner().filter)?;
        Ok(Response::new(api::ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<api::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let images = self.listed_images(request.into_inner().filter)?;
        Ok(Response::new(stream::batches(images, |images| api::StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<api::ImageStatusRequest>,
    ) -> Answer<api::ImageStatusResponse> {
        let request = request.into_inner();
        let name = named("image", request.image)?;
        let image = self.pods.images().find(&name).map_err(|e| error::image("ImageStatus", &e))?;
        let Some(image) = image else { return Ok(Response::new(Default::default())) };
        let info = if request.verbose { image_info(&image) } else { HashMap::new() };
        Ok(Response::new(api::ImageStatusResponse { image: Some(self.rendered(&image)), info }))
    }

    async fn pull_image(&self, request: Request<api::PullImageRequest>) -> Answer<api::PullImageResponse> {
        let request = request.into_inner();
        let name = named("image", request.image)?;
        let images = self.pods.images().clone();
        let pod = request.sandbox_config.and_then(|config| config.metadata);
        let namespace = pod.map(|metadata| metadata.namespace).unwrap_or_default();
        let asked = PullRequest { auth: request.auth, namespace };
        let pull = async move { images.pull(&name, asked).await };
        let pulled = self.operations.run(pull).await?.map_err(|e| error::image("PullImage", &e))?;
        Ok(Response::new(api::PullImageResponse { image_ref: pulled.id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<api::RemoveImageRequest>,
    ) -> Answer<api::RemoveImageResponse> {
        let name = named("image", request.into_inner().image)?;
        let images = self.pods.images().clone();
        let removed = self.operations.run(async move { images.remove(&name).await }).await?;
        removed.map_err(|e| error::image("RemoveImage", &e))?;
        Ok(Response::new(Default::default()))
    }

    async fn image_fs_info(&self, _: Request<api::ImageFsInfoRequest>) -> Answer<api::ImageFsInfoResponse> {
        let images = self.pods.images();
        let (usage, places) = (images.usage(), images.places());
        let timestamp = crate::pod::now();
        let file_system = |place: &Path, used: Usage| api::FilesystemUsage {
            timestamp,
            fs_id: Some(api::FilesystemIdentifier { mountpoint: place.to_string_lossy().into_owned() }),
            used_bytes: Some(api::UInt64Value { value: used.bytes }),
            inodes_used: Some(api::UInt64Value { value: used.inodes }),
        };
        // Where both are on one file system the kubelet wants equal answers.
        let of_containers = match places.images == places.containers {
            true => usage,
            false => {
                let total = self.pods.disk().total();
                Usage { bytes: total.bytes, inodes: total.inodes }
            }
        };
        Ok(Response::new(api::ImageFsInfoResponse {
            image_filesystems: vec![file_system(&places.images, usage)],
            container_filesystems: vec![file_system(&places.containers, of_containers)],
        }))
    }
}

impl Service {
    fn rendered(&self, image: &Image) -> api::Image {
        api::Image { pinned: self.pods.images().is_pinned(image), ..render::image(image) }
    }

    fn listed_images(&self, filter: Option<api::ImageFilter>) -> Result<Vec<api::Image>, Status> {
        let images = self.pods.images();
        let name = filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        let found = match name.as_str() {
            "" => images.list(),
            name => images.find(name).map_err(|e| error::image("ListImages", &e))?.into_iter().collect(),
        };
        Ok(found.iter().map(|image| self.rendered(image)).collect())
    }
}

fn named(field: &str, spec: Option<api::ImageSpec>) -> Result<String, Status> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image),
        Some(_) => Err(Status::invalid_argument(format!("{field}.image: is empty"))),
        None => Err(Status::invalid_argument(format!("{field}: is missing"))),
    }
}

fn image_info(image: &Image) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), verbose::image_json(image).to_string())])
}
